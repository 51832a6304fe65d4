"""The figures that compare policies in the main cells. Each function gives none where the study has no rows for it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from math import isnan, log10
from typing import NamedTuple

from dualmap.loadtest.reports.charts import Axis, linear, logarithmic
from dualmap.loadtest.study.charts import Series, ValueBar, labelled_lines, scatter, value_bars
from dualmap.loadtest.study.file import Cell, Experiment, Study, StudyRun, number
from dualmap.loadtest.study.tables import (
    BOUND,
    DUALMAP,
    PAPER,
    TARGETS,
    Capacities,
    at_rate,
    common_rate,
    curve,
    estimate,
    main_cells,
    plain_runs,
)
from dualmap.loadtest.study.text import cell_name, judged
from dualmap.loadtest.virtual.objectives import OBJECTIVES

MOST_FIGURES = 4  # of one kind: a page of twenty charts is read by nobody


def roles(standing: Sequence[str]) -> dict[str, str]:
    """The role of each policy in charts. peer: the best one apart from dualmap_paper, which has its own."""
    peer = next((p for p in standing if p not in (DUALMAP, PAPER, BOUND)), None)
    named = {DUALMAP: "dualmap", PAPER: "paper", BOUND: "bound", peer: "peer"}
    return {policy: named.get(policy, "other") for policy in standing}


def figure(title: str, drawing: str, caption: str = "") -> str:
    foot = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{drawing}{foot}</figure>"


def run_cells(study: Study) -> list[Cell]:
    return main_cells(r.cell for r in study.runs if r.experiment is Experiment.CELLS)[:MOST_FIGURES]


def attainment_curves(study: Study, role: Mapping[str, str]) -> list[str]:
    figures = []
    for cell in run_cells(study):
        runs = plain_runs(study, cell)
        series = [Series(p, role[p], curve(own)) for p, own in _by_policy(runs).items()]
        rates = [x for one in series for x, _ in one.points]
        x = linear(min(rates), max(rates), "requests a second")
        y = Axis(0, 1, "share within the SLO", percent=True)
        chart = labelled_lines("Share within the SLO against rate", series, x, y, mark_y=TARGETS[0])
        figures.append(
            figure(
                f"Requests within the SLO · {cell_name(cell)}",
                chart,
                f"What counts: {judged(cell)}. Mean over seeds. Dotted across: {TARGETS[0]:.0%}, "
                "where a line falls through it is the capacity. Refused and failed requests are misses.",
            )
        )
    return figures


def first_token_quantiles(study: Study, role: Mapping[str, str]) -> list[str]:
    """The distribution with its axes swapped and its tail stretched: lines end apart and the tail can be read."""
    figures = []
    for cell in run_cells(study):
        runs = [run for run in plain_runs(study, cell) if run.ttft_quantiles]
        rate = common_rate(runs)
        series = []
        for policy, chosen in at_rate(runs, rate).items():
            means = [
                (_nines(p), estimate(number(run.ttft_quantiles[p]) for run in chosen).mean) for p in range(10, 100)
            ]
            points = [(x, max(value, 1e-3)) for x, value in means if not isnan(value)]
            series.append(Series(policy, role[policy], points))
        values = [cell.slo_s, *(value for one in series for _, value in one.points)]
        if len(values) == 1:
            continue
        shown = [(10, "10"), (50, "50"), (75, "75"), (90, "90"), (95, "95"), (98, "98"), (99, "99")]
        x = Axis(_nines(10), _nines(99), "% of requests, tail stretched", ticks=[(_nines(p), t) for p, t in shown])
        y = logarithmic(min(values), max(values), "time to first token, s (log)")
        figures.append(
            figure(
                f"Time to first token · {cell_name(cell)}",
                labelled_lines("Time to first token", series, x, y, mark_y=cell.slo_s),
                f"Cumulative distribution, at {rate:.3g} requests/s for every policy; mean over seeds. Lower is "
                f"better. Dotted across: the SLO, {cell.slo_s:g} s. Requests that failed have no first token.",
            )
        )
    return figures


def trade_off(capacities: Capacities, role: Mapping[str, str]) -> list[str]:
    figures = []
    for cell in main_cells(capacities.cells)[:MOST_FIGURES]:
        points = []
        for policy in capacities.policies(cell, TARGETS[0]):
            at = capacities.of(cell, TARGETS[0], policy).mean
            tail = capacities.of(cell, TARGETS[0], policy, "ttft_p99_s").mean
            if not isnan(at) and not isnan(tail):
                points.append(Series(policy, role[policy], [(at, tail)]))
        if not points:
            continue
        rates = [p.points[0][0] for p in points]
        tails = [p.points[0][1] for p in points]
        margin = 0.08 * (max(rates) - min(rates))
        x = linear(max(min(rates) - margin, 0), max(rates) + margin, f"capacity at {TARGETS[0]:.0%}, requests a second")
        y = logarithmic(min(tails) * 0.95, max(tails) * 1.05, "P99 time to first token, s (log)")
        figures.append(
            figure(
                f"Capacity and what it costs the slowest · {cell_name(cell)}",
                scatter("P99 time to first token at capacity", points, x, y),
                "Each policy at its own capacity. Right is more traffic, down is a shorter tail.",
            )
        )
    return figures


class _Measure(NamedTuple):
    """least: where bars begin. sign: -1 where more is better."""

    title: str
    read: Callable[[StudyRun], float | None]
    show: Callable[[float], str]
    least: float = 0.0
    sign: int = 1


def _share_kept(objective: str, run: StudyRun) -> float | None:
    return run.kept.get(objective)


_EQUAL_LOAD = (
    _Measure("End to end, P50", lambda r: r.e2e_p50_s, lambda v: f"{v:.2f} s"),
    _Measure("Between tokens, P90 of all gaps", lambda r: r.itl_p90_s, lambda v: f"{v * 1000:.1f} ms"),
    _Measure("Between tokens, P99 of all gaps", lambda r: r.itl_p99_s, lambda v: f"{v * 1000:.0f} ms"),
    _Measure("Time per output token, P90 of requests", lambda r: r.tpot_p90_s, lambda v: f"{v * 1000:.1f} ms"),
    _Measure("Prompt tokens found in a cache", lambda r: r.hit_rate, lambda v: f"{v:.1%}", sign=-1),
    _Measure("Load of the busiest instance over the mean", lambda r: r.load_skew, lambda v: f"{v:.2f}", least=1.0),
    *(
        _Measure(f"Requests within {name}", partial(_share_kept, name), lambda v: f"{v:.1%}", sign=-1)
        for name in OBJECTIVES
    ),
    _Measure("Tokens in requests within the objective", lambda r: r.token_goodput, lambda v: f"{v:.1%}", sign=-1),
)


def equal_load(study: Study, role: Mapping[str, str]) -> list[str]:
    """Bars of the last main cell, which is the one of a full model where there is one."""
    cells = run_cells(study)
    if not cells:
        return []
    runs = plain_runs(study, cells[-1])
    rate = common_rate(runs)
    chosen = at_rate(runs, rate)
    figures = []
    for title, read, show, least, sign in _EQUAL_LOAD:
        found = {policy: estimate(number(read(run)) for run in own) for policy, own in chosen.items()}
        known = [policy for policy in found if not isnan(found[policy].mean)]
        order = sorted(known, key=lambda p: (p == BOUND, sign * found[p].mean))
        bars = [ValueBar(p, role[p], found[p].mean, found[p].half, show(found[p].mean)) for p in order]
        if bars:
            note = "Bars start at 1.0, an even load. " if least else ""
            figures.append(
                figure(
                    title,
                    value_bars(title, bars, least),
                    f"{cell_name(cells[-1])}, at {rate:.3g} requests/s. {note}Best first, the bound apart.",
                )
            )
    return figures


def _nines(percent: int) -> float:
    """50 % is at 0.3, 90 % at 1, 99 % at 2."""
    return -log10(1 - percent / 100)


def _by_policy(runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
    found: dict[str, list[StudyRun]] = defaultdict(list)
    for run in runs:
        found[run.policy].append(run)
    return found
