"""`dualmap plan`: how many of the instances should prefill for the others, or in which steps all should do both, for
the work of a trace, in virtual time."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dualmap.loadtest.cli.simulate_arguments import (
    add_model,
    add_objective,
    add_settings,
    add_trace,
    check_least,
    setup_of,
)
from dualmap.loadtest.virtual.objectives import TTFT_TPOT

if TYPE_CHECKING:
    from dualmap.loadtest.plan.plan import Plan
    from dualmap.loadtest.plan.question import Question

EXAMPLES = (
    "dualmap plan trace.jsonl --instances 8 --slo 5 --tpot 0.03 --html runs/plan.html",
    "dualmap plan trace.jsonl --instances 8 --qps recorded --windows 6 --json",
    "dualmap plan sessions/ --format weka --max-input-tokens 65536 --slo 20 --qps 2 --attainment 0.95",
    "dualmap plan trace.jsonl --objective itl+e2e --model profile.yaml --policy llm_d --network-ms 1 --jobs 8",
    "dualmap plan trace.jsonl --limit 4000 --warmup 400 --seeds 5 --set min_prefill_leg_tokens=2048",
    "dualmap plan trace.jsonl --tpot 0.03 --model profile.yaml --mixed-model small-steps.yaml",
)
RECORDED = "recorded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    add_trace(work)
    work.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="requests of each window, for up to 8 instances (default: what comes in two minutes, 1000 at least)",
    )
    work.add_argument(
        "--warmup", type=int, metavar="N", help="requests that are not counted (default: a tenth of --limit)"
    )
    work.add_argument(
        "--windows",
        type=int,
        default=1,
        metavar="N",
        help="equal parts of the trace's time, to see whether the best split changes (default %(default)s)",
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--qps",
        metavar=f"QPS|{RECORDED}",
        help="judge splits at this rate, or at the trace's own times, and find the fewest instances for it"
        " (default: look for the highest rate)",
    )
    load.add_argument(
        "--attainment",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of requests that are to be within the objective (default %(default)g)",
    )
    add_objective(load, TTFT_TPOT)
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--instances", type=int, default=8, metavar="N", help="instances to divide (default %(default)s)"
    )
    add_model(cluster)
    cluster.add_argument(
        "--mixed-model",
        metavar="NAME",
        help="measured with small steps, for mixed instances with such (default: that of --model, with steps as the"
        " objective's pace asks for)",
    )
    cluster.add_argument("--policy", default="dualmap", metavar="NAME", help="of the scheduler (default %(default)s)")
    add_settings(cluster)
    output = parser.add_argument_group("runs and output")
    output.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="runs of each split that is near the best, with other arrivals (default %(default)s)",
    )
    output.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one for each core)"
    )
    output.add_argument("--json", action="store_true", help="print it for programs (default: a table and sentences)")
    output.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a picture (default: none)")


def run(args: argparse.Namespace) -> int:
    """0; 1 if something broke; 2 with a line on stderr for a file or a value that cannot be used."""
    from dualmap.loadtest.plan.plan import make_plan
    from dualmap.loadtest.plan.question import Runs
    from dualmap.loadtest.study.workers import JobError

    try:
        question = _question(args)
        find_smallest = question.rates is not None and len(question.windows) == 1
        _show(make_plan(question, Runs(question, args.jobs), find_smallest=find_smallest), args)
    except (ValueError, OSError) as error:
        print(f"dualmap plan: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"dualmap plan: {error}", file=sys.stderr)
        return 1
    return 0


def _question(args: argparse.Namespace) -> "Question":
    """Everything is looked at before anything runs. Raises ValueError."""
    from dualmap.loadtest.option_lists import policies
    from dualmap.loadtest.plan.question import Question
    from dualmap.loadtest.plan.windows import in_windows, of_length
    from dualmap.loadtest.virtual.models import load_model
    from dualmap.loadtest.virtual.simulated_workload import recorded_qps
    from dualmap.loadtest.virtual.step_sizes import paced_steps
    from dualmap.scheduler.config import SchedulerConfig
    from dualmap.scheduler.config_text import read_settings

    check_least(args, 1, "seeds", "limit", "jobs", "windows")
    check_least(args, 2, "instances")
    check_least(args, 0, "warmup")
    setup = replace(setup_of(args), instances=args.instances, overlaid=args.qps is None)
    if not 0 < args.attainment < 1:
        raise ValueError(f"--attainment must be above 0 and below 1, not {args.attainment:g}")
    policy, *more = policies(args.policy)
    if more:
        raise ValueError(f"--policy takes one policy, not {args.policy}")
    overrides = read_settings(args.set, fixed=("policy", "ttft_slo_s"))
    SchedulerConfig(**{"policy": policy, "ttft_slo_s": args.slo, **overrides})
    measured = args.mixed_model and load_model(args.mixed_model)
    qps = None if args.qps in (None, RECORDED) else _qps(args.qps)
    windows = [
        of_length(window, args.limit, args.warmup, None if args.qps is None else qps or recorded_qps(window))
        for window in in_windows(setup, args.windows)
    ]
    rates = None if args.qps is None else [qps or recorded_qps(window) for window in windows]
    return Question(
        windows,
        args.attainment,
        rates,
        args.seeds,
        policy,
        tuple(sorted(overrides.items())),
        [measured.profile.max_num_batched_tokens] if measured else paced_steps(windows),
        args.mixed_model,
    )


def _qps(text: str) -> float:
    try:
        qps = float(text)
    except ValueError:
        qps = -1.0
    if not 0 < qps < float("inf"):
        raise ValueError(f"--qps takes a number above 0, or {RECORDED}, not {text!r}")
    return qps


def _show(plan: "Plan", args: argparse.Namespace) -> None:
    from dualmap.loadtest.plan.advice import advice
    from dualmap.loadtest.plan.as_json import plan_record
    from dualmap.loadtest.plan.page import plan_page
    from dualmap.loadtest.plan.table import plan_table
    from dualmap.loadtest.reports.aligned_rows import aligned

    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(plan_page(plan), encoding="utf-8")
    if args.json:
        print(json.dumps(plan_record(plan), indent=2))
        return
    for line in (*aligned(plan_table(plan), underlined=True), "", *advice(plan)):
        print(line)
    if args.html is not None:
        print(f"page: {args.html}")
