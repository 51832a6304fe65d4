"""What a shorter tail costs: `python -m dualmap.loadtest.experiments.tail_frontier --traces DIR`.

Capacity against P99 of the time to the first token, over `patience_slos` x `length_handicap` and over
`release_window_s`, and other policies at the same rates.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from math import isnan
from pathlib import Path
from typing import NamedTuple

from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.reports.charts import linear
from dualmap.loadtest.reports.style import STYLE
from dualmap.loadtest.study.capacity_search import nearest_place, rate_at
from dualmap.loadtest.study.charts import Series, labelled_lines
from dualmap.loadtest.study.file import StudyRun, number
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.study.simulation import Contender
from dualmap.loadtest.study.simulation_jobs import CapacityJob, RateJob, job_key
from dualmap.loadtest.study.style import STUDY_STYLE
from dualmap.loadtest.study.tables import DUALMAP
from dualmap.loadtest.study.work_off import work_off
from dualmap.loadtest.study.workers import JobError
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler.config import SchedulerConfig

PATIENCE = (1.0, 1.3, 1.6, 2.0, 2.4, 3.0, 5.0)
HANDICAPS = (0.0, 1.0, 2.0, 4.0)
WINDOWS = (0.4, 0.8, 1.3)
PEERS = ("ray_prefix_affinity", "llm_d", "cache_aware", "llm_d_optimized", "smetric")
TARGETS = (0.9, 0.99)
BELOW = 0.9  # of the capacity of the defaults: the lower of the two rates at which tails are compared
_SHOWN = ("attainment", "ttft_p99_s", "tpot_p90_s")


class Point(NamedTuple):
    """A policy with its settings. capacities: at TARGETS. tails: a run at each rate."""

    policy: str
    settings: dict[str, float]
    capacities: list[float]
    tails: list[StudyRun]


def main(argv: list[str] | None = None) -> int:
    """0; 1 if something broke; 2 for a value or file that cannot be used. What the file has is not done again."""
    parser = argparse.ArgumentParser(
        prog="python -m dualmap.loadtest.experiments.tail_frontier", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--traces", type=Path, default=Path("traces"), metavar="DIR", help="where the traces are (%(default)s)")
    add("--models", nargs="+", default=["full", "prefill-only"], metavar="NAME", help="(full prefill-only)")
    add("--limit", type=int, default=4000, metavar="N", help="requests of a run (4000)")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add(
        "--out", type=Path, default=Path("runs/tail-frontier.jsonl"), metavar="FILE", help="rows; pictures go beside it"
    )
    args = parser.parse_args(argv)
    try:
        with StudyLog(args.out, resume=True) as log:
            for model in args.models:
                trace = args.traces / "mooncake_conversation.jsonl"
                setup = Setup(str(trace), model=model, limit=args.limit, warmup=args.limit // 16)
                points, rates = measure(setup, log, args.jobs)
                picture = args.out.with_name(f"{args.out.stem}-{model}.svg")
                picture.write_text(picture_of(points, rates), "utf-8")
                print("\n".join([*table(model, points, rates), f"{picture}", ""]))
    except (ValueError, OSError) as error:
        print(f"tail_frontier: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"tail_frontier: {error}", file=sys.stderr)
        return 1
    return 0


def measure(setup: Setup, log: StudyLog, processes: int) -> tuple[list[Point], list[float]]:
    """The defaults first; and the rates at which tails are compared."""
    searches = [CapacityJob(setup, contender, TARGETS) for contender in _contenders()]
    work_off(searches, log, processes)
    capacities = [[number(row.qps) for row in log.capacities_of(job_key(job))] for job in searches]
    rates = [rate_at(nearest_place(share * capacities[0][0])) for share in (BELOW, 1.0)]
    runs = [RateJob(setup, job.contender, tuple(rates)) for job in searches]
    work_off(runs, log, processes)
    return [
        Point(job.contender.policy, dict(job.contender.overrides), found, [_run_at(log, job, qps) for qps in rates])
        for job, found in zip(runs, capacities, strict=True)
    ], rates


def _contenders() -> Iterator[Contender]:
    yield Contender(DUALMAP)
    for window_s in WINDOWS:
        yield from _varied(release_window_s=window_s)
    for patience, handicap in product(PATIENCE, HANDICAPS):
        yield from _varied(patience_slos=patience, length_handicap=handicap)
    for policy in PEERS:
        yield Contender(policy)


def _varied(**settings: float) -> Iterator[Contender]:
    """Without the defaults again."""
    defaults = SchedulerConfig()
    changed = {name: value for name, value in settings.items() if value != getattr(defaults, name)}
    if changed:
        yield Contender(DUALMAP, 0, tuple(sorted(changed.items())))


def _run_at(log: StudyLog, job: RateJob, qps: float) -> StudyRun:
    return next(run for run in log.runs_of(job_key(job)) if run.qps == qps and run.complete)


def table(model: str, points: Sequence[Point], rates: Sequence[float]) -> list[str]:
    """`*`: none has both a higher capacity and a shorter tail at the higher rate, where patience counts."""
    shown = [f"{heading} at {qps:g}/s" for qps in rates for heading in ("within", "P99 s", "TPOT P90 ms")]
    rows = [[model, "patience", "handicap", "window s", "90 %", "99 %", *shown, ""]]
    for point in points:
        cells = [point.policy]
        cells += [f"{value:g}" if point.policy == DUALMAP else "" for value in _settings(point)]
        cells += [f"{qps:.2f}" for qps in point.capacities]
        for run in point.tails:
            within, p99_s, tpot_s = (number(getattr(run, name)) for name in _SHOWN)
            cells += [f"{within:.1%}", f"{p99_s:.2f}", "" if isnan(tpot_s) else f"{tpot_s * 1000:.0f}"]
        rows.append([*cells, "*" if _is_best(point, points) else ""])
    return aligned(rows)


def _settings(point: Point) -> list[float]:
    defaults = SchedulerConfig()
    names = ("patience_slos", "length_handicap", "release_window_s")
    return [point.settings.get(name, getattr(defaults, name)) for name in names]


def _at(point: Point) -> tuple[float, float]:
    """Capacity at the first target, P99 at the higher rate."""
    return point.capacities[0], number(point.tails[-1].ttft_p99_s)


def _is_best(point: Point, points: Sequence[Point]) -> bool:
    qps, p99_s = _at(point)
    return not any(a >= qps and b <= p99_s and (a, b) != (qps, p99_s) for a, b in map(_at, points))


def picture_of(points: Sequence[Point], rates: Sequence[float]) -> str:
    """A line for each handicap, its points by patience; each peer is a point."""
    lines: list[Series] = []
    for handicap in HANDICAPS:
        own = [p for p in points if p.policy == DUALMAP and _settings(p)[1:] == [handicap, WINDOWS[0]]]
        role = "dualmap" if handicap == SchedulerConfig().length_handicap else "other"
        lines.append(Series(f"handicap {handicap:g}", role, [_at(p) for p in sorted(own, key=_settings)]))
    lines += [Series(p.policy, "peer", [_at(p)]) for p in points if p.policy != DUALMAP]
    xs, ys = zip(*(at for line in lines for at in line.points), strict=True)
    x = linear(min(xs) * 0.99, max(xs) * 1.01, "requests/s with 90 % within the objective")
    y = linear(0.0, max(ys) * 1.05, f"P99 TTFT at {rates[-1]:g}/s, s")
    drawn = labelled_lines(
        "Capacity against the tail", lines, x, y, mark_x=points[0].capacities[0], mark_y=_at(points[0])[1]
    )
    style = f"<style>{STYLE}{STUDY_STYLE} svg {{ background: var(--paper); }}</style>"
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1)


if __name__ == "__main__":
    sys.exit(main())
