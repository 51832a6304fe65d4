"""Scaling in virtual time: `python -m dualmap.loadtest.experiments.elastic_study TRACE`.

The whole trace by a fleet that scales itself, against the smallest fixed one that keeps the objective; then one
instance more in mid-run, and one less.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import isnan
from pathlib import Path

from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.resize_runs import Resized, resize_runs
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.reports.timeline_page import Served, timeline_page
from dualmap.loadtest.study.simulation import Contender, cluster_settings
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of

SEED = 1  # spreads arrivals by 2 s each way: Mooncake's come in lumps of 3 s
MOST_FIXED = 64


@dataclass(frozen=True, slots=True)
class FleetRun:
    """attainment: share of first tokens within the objective; failures count against it."""

    name: str
    attainment: float
    done: ClusterRun

    @property
    def failed(self) -> int:
        return sum(not outcome.ok for outcome in self.done.outcomes)

    @property
    def instance_hours(self) -> float:
        return self.done.instance_s / 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="as for `dualmap simulate`")
    parser.add_argument("--qps", type=positive, default=3.4, metavar="Q", help="requests a second (3.4, as Mooncake)")
    parser.add_argument("--limit", type=int, default=100_000, metavar="N", help="requests (100000: all)")
    parser.add_argument("--attainment", type=positive, default=0.95, metavar="S", help="share to keep (0.95)")
    parser.add_argument("--start-s", type=positive, default=30.0, metavar="S", help="what an instance takes (30)")
    parser.add_argument("--max", type=int, default=10, metavar="N", help="most instances of the scaled fleet (10)")
    parser.add_argument("--resize-qps", type=positive, default=7.0, metavar="Q", help="of the second part (7)")
    parser.add_argument("--resize-limit", type=int, default=8000, metavar="N", help="its requests (8000)")
    parser.add_argument("--out", type=Path, default=Path("runs/elastic"), metavar="DIR", help="(runs/elastic)")


def run(args: argparse.Namespace) -> int:
    """2 for a trace that cannot be used."""
    setup = Setup(args.trace, limit=args.limit)
    try:
        fixed, scaled = fleet_runs(setup, args)
        print(f"\n{date.today().isoformat()}, {os.cpu_count()} cores, virtual time, {args.qps:g} requests a second\n")
        print("\n".join(aligned(list(_fleet_rows(fixed, scaled)))))
        page = args.out / "elastic.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_page(scaled, fixed[-1], setup), encoding="utf-8")
        print(f"report: {page}")
        resized = resize_runs(replace(setup, limit=args.resize_limit), args.resize_qps, SEED)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"\nOne instance more after a third of {args.resize_limit} requests at {args.resize_qps:g}/s, and one less:\n"
    )
    print("\n".join(aligned(list(_resize_rows(resized)))))
    return 0


def fleet_runs(setup: Setup, args: argparse.Namespace) -> tuple[list[FleetRun], list[FleetRun]]:
    """Fixed fleets up to the smallest that keeps the objective, and scaled ones. Raises ValueError."""
    fixed: list[FleetRun] = []
    for instances in range(1, MOST_FIXED):
        fixed.append(_fleet_run(f"{instances} instances", replace(setup, instances=instances), args))
        print(f"{fixed[-1].name}: {fixed[-1].attainment:.1%}", flush=True)
        if fixed[-1].attainment >= args.attainment:
            break
    scaled = []
    for least in (2, 3):
        whole = replace(setup, instances=args.max, scale=(least, args.max), start_s=args.start_s)
        scaled.append(_fleet_run(f"{least} to {args.max} instances", whole, args))
    return fixed, scaled


def _fleet_run(name: str, setup: Setup, args: argparse.Namespace) -> FleetRun:
    setup = replace(setup, limit=-(-setup.limit // setup.copies))
    workload = workload_of(setup, args.qps, SEED)
    done = VirtualCluster(workload, cluster_settings(setup, Contender("dualmap", SEED), workload)).run()
    in_time = sum(o.ok and o.first_token_s - o.arrived_s <= setup.slo_s for o in done.outcomes)
    return FleetRun(name, in_time / len(done.outcomes), done)


def _fleet_rows(fixed: Sequence[FleetRun], scaled: Sequence[FleetRun]) -> Iterator[tuple[str, ...]]:
    yield "", "in time", "failed", "most at once", "instance-hours", "of the best fixed"
    best = fixed[-1]
    for one in (*fixed[-2:], *scaled):
        most = max((there for _, _, there in one.done.timeline), default=0)
        yield (
            one.name,
            f"{one.attainment:.1%}",
            str(one.failed),
            str(most or one.name.split()[0]),
            f"{one.instance_hours:.2f}",
            f"{one.instance_hours / best.instance_hours:.2f}",
        )


def _resize_rows(resized: Sequence[Resized]) -> Iterator[tuple[str, ...]]:
    minutes = ("before", "after", "before", "after")
    yield ("", "keys changed", "ideal", *(f"cached {m}" for m in minutes), *(f"P90 {m}" for m in minutes), "failed")
    for one in resized:
        yield (
            one.name,
            f"{one.changed:.1%}",
            f"{one.ideal:.1%}",
            *(f"{rate:.1%}" for rate in one.hit_rates),
            *(f"{p90:.2f} s" for p90 in one.p90s),
            str(one.failed),
        )


def _page(scaled: Sequence[FleetRun], best: FleetRun, setup: Setup) -> str:
    one = scaled[-1]
    served = [
        Served(o.arrived_s, None if isnan(o.first_token_s) or not o.ok else o.first_token_s - o.arrived_s)
        for o in one.done.outcomes
    ]
    verdict = (
        f"{setup.title}, virtual time. {one.name}: {one.attainment:.1%} within {setup.slo_s:g} s, {one.failed} of"
        f" {len(served)} failed, {one.instance_hours:.2f} instance-hours. {best.name}: {best.attainment:.1%},"
        f" {best.instance_hours:.2f} instance-hours."
    )
    return timeline_page("A fleet that scales itself", served, one.done.timeline, verdict, setup.slo_s)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
