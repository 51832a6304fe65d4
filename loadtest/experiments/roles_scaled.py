"""A day whose work changes, in virtual time: `python -m dualmap.loadtest.experiments.roles_scaled LONG SHORT`.

Long prompts, then short ones, then other long ones, before instances that prefill and others that decode: splits that
stay, instances that do both, instances that change their roles, and roles that are scaled.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.study.simulation import Contender, cluster_settings
from dualmap.loadtest.traces.workload import Workload, WorkRequest, in_order
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.models import load_model
from dualmap.loadtest.virtual.objectives import Promises
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of

INSTANCES = 8
SEED = 1
PARTS = ("long", "short", "long again")


@dataclass(frozen=True, slots=True)
class Day:
    """starts_s: of each part but the first."""

    workload: Workload
    starts_s: tuple[float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("long", metavar="LONG", help="a trace, as for `dualmap simulate`")
    parser.add_argument("short", metavar="SHORT", help="another one")
    parser.add_argument("--long-qps", type=positive, default=5.6, metavar="Q", help="long prompts a second (5.6)")
    parser.add_argument("--short-qps", type=positive, default=40.0, metavar="Q", help="short ones (40)")
    parser.add_argument("--minutes", type=positive, default=10.0, metavar="M", help="of each part (10)")
    parser.add_argument("--slo", type=positive, default=5.0, metavar="S", help="to the first token (5)")
    parser.add_argument("--tpot", type=positive, default=0.03, metavar="S", help="for each token after it (0.03)")
    parser.add_argument("--only", default="", metavar="NAME", help="one contender (all)")


def run(args: argparse.Namespace) -> int:
    """2 for a trace that cannot be used."""
    whole = Setup(args.long, instances=INSTANCES, slo_s=args.slo, tpot_s=args.tpot)
    splits = {f"{n} + {INSTANCES - n}": replace(whole, prefill=n, decode=INSTANCES - n) for n in (6, 5, 4)}
    scaled = replace(whole, instances=14, prefill=1, decode=2, most_prefill=7, most_decode=7)
    setups = {
        "8 that do both": whole,
        **splits,
        "8 that change roles, from 6 + 2": replace(splits["6 + 2"], change_roles=True),
        "8 that change roles, from 4 + 4": replace(splits["4 + 4"], change_roles=True),
        "1 to 7 + 2 to 7": scaled,
    }
    print(f"\n{date.today().isoformat()}, {os.cpu_count()} cores, virtual time\n", flush=True)
    rows = [("prefill + decode", *(f"within, {part}" for part in PARTS), "within", "failed", "instance-hours", "plans")]
    plans = []
    try:
        for name, setup in setups.items():
            if args.only in name:
                day = day_of(args)
                contender = Contender("dualmap", SEED, (("tpot_slo_s", args.tpot),))
                done = VirtualCluster(day.workload, cluster_settings(setup, contender, day.workload)).run()
                rows.append((name, *_measured(setup, day, done)))
                plans += [f"{name}: {at:.0f} s, {why}" for at, why in done.plans]
                print("  ".join(rows[-1]), flush=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(("", *aligned(rows), "", *plans)))
    return 0


def day_of(args: argparse.Namespace) -> Day:
    """Made anew for each run, which changes it. Raises ValueError."""
    seconds = args.minutes * 60
    long = Setup(args.long, limit=round(2 * seconds * args.long_qps))
    short = Setup(args.short, limit=round(seconds * args.short_qps))
    both = workload_of(long, args.long_qps, SEED).requests
    half = len(both) // 2
    first, again = both[:half], both[half:]
    starts_s: list[float] = []
    requests: list[WorkRequest] = list(first)
    for part in (workload_of(short, args.short_qps, SEED).requests, again):
        starts_s.append(max(request.arrival_s for request in requests))
        requests += _behind(part, requests, starts_s[-1])
    return Day(in_order(Path(args.long).stem, requests), (starts_s[0], starts_s[1]))


def _behind(part: Sequence[WorkRequest], before: Sequence[WorkRequest], start_s: float) -> list[WorkRequest]:
    """The requests of a part, from `start_s` on."""
    sessions = max(request.session for request in before) + 1
    first_s = part[0].arrival_s
    return [
        replace(
            request,
            arrival_s=start_s + request.arrival_s - first_s,
            session=sessions + request.session,
            after=None if request.after is None else len(before) + request.after,
        )
        for request in part
    ]


def _measured(setup: Setup, day: Day, done: ClusterRun) -> tuple[str, ...]:
    promises = Promises(setup.slo_s, setup.tpot_s, load_model(setup.model).profile)
    kept: list[list[bool]] = [[], [], []]
    for request, o in zip(day.workload.requests, done.outcomes, strict=True):
        limits = promises.limits("ttft+tpot", request.prompt_tokens, request.output_tokens)
        part = sum(o.arrived_s >= start_s for start_s in day.starts_s)
        kept[part].append(limits.kept(o.arrived_s, o.first_token_s, o.finished_s, request.output_tokens))
    everything = [one for part in kept for one in part]
    return (
        *(f"{sum(part) / max(1, len(part)):.1%}" for part in (*kept, everything)),
        str(sum(not o.ok for o in done.outcomes)),
        f"{done.instance_s / 3600:.2f}",
        str(len(done.plans)),
    )


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
