"""`dualmap simulate`: policies over a trace in virtual time, the production scheduler in front of simulated engines."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualmap.loadtest.formats import FORMATS
from dualmap.loadtest.virtual.models import MODELS
from dualmap.loadtest.virtual.objectives import OBJECTIVES, TPOT_S, TTFT

if TYPE_CHECKING:
    from dualmap.loadtest.study.log import StudyLog
    from dualmap.loadtest.study.simulation_jobs import Job
    from dualmap.scheduler.core import Scheduler

INTERRUPTED = 130  # as shells report a Ctrl-C
EXAMPLES = (
    "dualmap simulate synth:hot --qps 8,12,16 --policy dualmap,round_robin --bound",
    "dualmap simulate trace.jsonl --capacity --attainment 0.9,0.99 --instances 8,16 --seeds 3 --jobs 8",
    "dualmap simulate trace.jsonl --qps 12 --objective ttft+tpot --slo 2 --tpot 0.05 --model full --network-ms 1",
    "dualmap simulate trace.jsonl --format mooncake --qps 12 --limit 4000 --warmup 500 --max-input-tokens 8192",
    "dualmap simulate synth:hot --qps 12 --scale 2-8 --start-s 60 --disturbance none --gateways 2 --cells 1",
    "dualmap simulate synth:hot --qps 12 --set max_moves=4 --journal runs/journal.jsonl.gz",
    "dualmap simulate synth:hot --qps 8,12 --out runs/study.jsonl --resume",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_work(parser.add_argument_group("work"))
    _add_load(parser.add_argument_group("load"))
    _add_cluster(parser.add_argument_group("cluster"))
    _add_output(parser.add_argument_group("runs and output"))


def _add_work(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "trace",
        metavar="TRACE",
        help="a trace file, a directory of agent sessions, or synth:hot, hot-short, hot-60, low-reuse",
    )
    add("--format", choices=("auto", *FORMATS), default="auto", help="of the trace (default: told by its content)")
    add("--limit", type=int, default=8000, metavar="N", help="requests, for up to 8 instances (default %(default)s)")
    add("--warmup", type=int, default=500, metavar="N", help="requests that are not counted (default %(default)s)")
    add(
        "--max-input-tokens",
        type=int,
        default=20480,
        metavar="TOKENS",
        help="leave out longer prompts; 0: none (default %(default)s)",
    )


def _add_load(group: "argparse._ArgumentGroup") -> None:
    load = group.add_mutually_exclusive_group(required=True)
    load.add_argument(
        "--qps", metavar="QPS,...", help="requests per second over the whole cluster (this or --capacity)"
    )
    load.add_argument("--capacity", action="store_true", help="look for the highest rate that keeps the objective")
    add = group.add_argument
    add(
        "--attainment",
        default="0.9,0.95,0.99",
        metavar="SHARE,...",
        help="of requests within the objective, that --capacity looks for (default %(default)s)",
    )
    add("--objective", choices=OBJECTIVES, default=TTFT, help="what makes a request count (default %(default)s)")
    add("--slo", type=float, default=5.0, metavar="SECONDS", help="to the first token (default %(default)g)")
    add(
        "--tpot",
        type=float,
        default=TPOT_S,
        metavar="SECONDS",
        help="for each output token, of the objective ttft+tpot (default %(default)g)",
    )


def _add_cluster(group: "argparse._ArgumentGroup") -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--instances", default="8", metavar="N,...", help="sizes of the cluster (default %(default)s)")
    size.add_argument(
        "--scale",
        metavar="MIN-MAX",
        help="instances as the load needs them, by the plans of `dualmap up` (default: none)",
    )
    add = group.add_argument
    add(
        "--start-s",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="until an instance of --scale has started (default %(default)g)",
    )
    add(
        "--model",
        default="full",
        metavar="NAME",
        help=f"{', '.join(MODELS)}, or a profile's file (default %(default)s)",
    )
    add(
        "--policy",
        default="dualmap",
        metavar="NAME,...",
        help="policies to compare, or all, those of installed packages too (default %(default)s)",
    )
    add("--bound", action="store_true", help="also the upper bound: one cache shared by all, one queue (default: no)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the scheduler; repeatable (default: none)",
    )
    add("--gateways", type=int, default=1, metavar="N", help="gateways that share the cluster (default %(default)s)")
    add(
        "--cells",
        type=int,
        default=1,
        metavar="N",
        help="cells that the cluster is divided into, chosen by prefix; 1: none (default %(default)s)",
    )
    add(
        "--network-ms",
        type=float,
        default=0.5,
        metavar="MS",
        help="milliseconds from gateway to instance (default %(default)g)",
    )
    add("--disturbance", default="none", metavar="NAME", help="what goes wrong: a name or a file (default %(default)s)")


def _add_output(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs of each, with other names and arrivals (default %(default)s)",
    )
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one for each core)")
    add("--out", type=Path, metavar="FILE", help="also write all rows, for `dualmap report` (default: none)")
    add("--resume", action="store_true", help="go on with the file of --out, without what it has (default: begin)")
    add(
        "--journal",
        type=Path,
        metavar="FILE",
        help="write the scheduler's events, for `dualmap replay-journal` (default: none)",
    )


def run(args: argparse.Namespace) -> int:
    """0; 1 if something broke; 2 with a line on stderr for a file or a value that cannot be used; 130 for a Ctrl-C."""
    from dualmap.loadtest.study.log import StudyLog
    from dualmap.loadtest.study.workers import JobError

    try:
        jobs = _jobs(args)
        if args.journal:
            return _with_journal(args.journal, jobs)
        with StudyLog(args.out, resume=args.resume) as log:
            code = _work_off(jobs, log, args.jobs)
            _print_table(log, jobs)
            return code
    except (ValueError, OSError) as error:
        print(f"dualmap simulate: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"dualmap simulate: {error}", file=sys.stderr)
        return 1


def _jobs(args: argparse.Namespace) -> "list[Job]":
    """Everything is looked at before anything runs. Raises ValueError."""
    from dualmap.loadtest.option_lists import numbers, policies, span, whole_numbers
    from dualmap.loadtest.study.simulation import Contender, cluster_settings
    from dualmap.loadtest.study.simulation_jobs import CapacityJob, RateJob
    from dualmap.loadtest.study.tables import BOUND
    from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
    from dualmap.scheduler.config_text import read_settings

    if args.resume and args.out is None:
        raise ValueError("--resume needs the file, --out")
    for name in ("seeds", "limit", "gateways", "cells", "jobs"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(args, name)}")
    for name in ("warmup", "max_input_tokens", "network_ms"):
        if not getattr(args, name) >= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 0, not {getattr(args, name)}")
    for name in ("slo", "tpot", "start_s"):
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}")
    if args.scale and args.capacity:
        raise ValueError("--scale is for --qps: what a cluster that grows can do, one of its largest size can")
    scale = span(args.scale, "--scale") if args.scale else None
    contenders = policies(args.policy) + ([BOUND] if args.bound else [])
    overrides = tuple(sorted(read_settings(args.set, fixed=("policy", "ttft_slo_s")).items()))
    rates = () if args.capacity else numbers(args.qps, "--qps", 0)
    targets = numbers(args.attainment, "--attainment", 0, 1)
    jobs: list[Job] = []
    for instances in (scale[1],) if scale else whole_numbers(args.instances, "--instances"):
        setup = Setup(
            args.trace,
            format=args.format,
            instances=instances,
            model=args.model,
            disturbance=args.disturbance,
            gateways=args.gateways,
            cells=args.cells,
            network_s=args.network_ms / 1000,
            slo_s=args.slo,
            objective=args.objective,
            tpot_s=args.tpot,
            limit=args.limit,
            max_prompt_tokens=args.max_input_tokens,
            warmup=args.warmup,
            scale=scale,
            start_s=args.start_s,
        )
        workload = workload_of(setup, rates[0] if rates else float(instances), 0)
        if len(workload.requests) <= setup.warmup_requests:
            raise ValueError(
                f"--warmup must be below the number of requests, {len(workload.requests)}, not {setup.warmup_requests}"
            )
        for policy in contenders:
            for seed in range(args.seeds):
                contender = Contender(policy, seed, overrides)
                cluster_settings(setup, contender, workload)
                jobs.append(
                    CapacityJob(setup, contender, targets) if args.capacity else RateJob(setup, contender, rates)
                )
    return jobs


def _work_off(jobs: "Sequence[Job]", log: "StudyLog", processes: int) -> int:
    from dualmap.loadtest.study.work_off import work_off

    try:
        work_off(jobs, log, processes)
    except KeyboardInterrupt:
        kept = f"; what was finished is in {log.path}" if log.path else ""
        print(f"dualmap simulate: interrupted{kept}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _print_table(log: "StudyLog", jobs: "Sequence[Job]") -> None:
    from dualmap.loadtest.cli.simulate_table import capacity_table, plan_lines, run_table
    from dualmap.loadtest.study.log import contender_key
    from dualmap.loadtest.study.simulation_jobs import CapacityJob, job_key

    keys = {job_key(job) for job in jobs}
    if isinstance(jobs[0], CapacityJob):
        targets = jobs[0].targets
        found = [c for c in log.study.capacities if contender_key(c) in keys and c.attainment in targets]
        lines = capacity_table(found) if found else []
    else:
        rates = jobs[0].rates
        runs = [r for r in log.study.runs if contender_key(r) in keys and r.qps in rates]
        lines = run_table(runs)
        if len(runs) == 1:
            lines += plan_lines(runs[0])
    for line in lines:
        print(line)


def _with_journal(path: Path, jobs: "Sequence[Job]") -> int:
    """One run, whose scheduler's events are written. Raises ValueError, OSError."""
    from dualmap.loadtest.cli.simulate_table import run_table
    from dualmap.loadtest.study.simulation import simulate
    from dualmap.loadtest.study.simulation_jobs import RateJob
    from dualmap.router.journal.writer import JournaledScheduler, JournalWriter, path_for

    if len(jobs) != 1 or not isinstance(jobs[0], RateJob) or len(jobs[0].rates) != 1:
        raise ValueError("--journal is for a single run: one policy, one size, one --qps, one seed")
    job = jobs[0]
    writers: list[JournalWriter] = []

    def journaled(core: "Scheduler") -> JournaledScheduler:
        writers.append(JournalWriter(path if not writers else path_for(path, f"gateway-{len(writers)}"), core.config))
        return JournaledScheduler(core, writers[-1])

    try:
        row = simulate(job.setup, job.contender, job.rates[0], wrap=journaled)
    finally:
        for writer in writers:
            writer.close()
    for line in run_table([row]):
        print(line)
    for writer in writers:
        print(writer.state, file=sys.stderr)
    return 0
