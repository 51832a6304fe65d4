"""The figures of dualmap itself: cluster size, techniques switched off, constants varied, cost of a decision."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isclose, isnan, log2, log10

from dualmap.loadtest.reports.charts import Axis, linear, logarithmic, short_number
from dualmap.loadtest.study.charts import Series, ValueBar, labelled_lines, panel, value_bars
from dualmap.loadtest.study.figures import MOST_FIGURES, figure
from dualmap.loadtest.study.file import Cell, Experiment, Study, StudyCapacity, StudyRun, number
from dualmap.loadtest.study.tables import DUALMAP, TARGETS, Capacities, cell_order, estimate, mean_of
from dualmap.loadtest.study.text import cell_name, cell_parts
from dualmap.scheduler.config import SchedulerConfig


def cluster_sizes(capacities: Capacities, role: Mapping[str, str]) -> list[str]:
    """For each kind of cell that was measured at two sizes or more."""
    kinds: dict[Cell, list[Cell]] = defaultdict(list)
    for cell in capacities.cells:
        kinds[cell._replace(instances=0)].append(cell)
    figures = []
    for cells in sorted(kinds.values(), key=len, reverse=True)[:MOST_FIGURES]:
        if len(cells) < 2:
            continue
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for cell in cells:
            for policy in capacities.policies(cell, TARGETS[0]):
                each = capacities.of(cell, TARGETS[0], policy).mean / cell.instances
                if not isnan(each):
                    lines[policy].append((log2(cell.instances), each))
        series = [Series(policy, role[policy], points) for policy, points in lines.items() if len(points) > 1]
        if not series:
            continue
        ticks = [(log2(cell.instances), str(cell.instances)) for cell in cells]
        x = Axis(ticks[0][0], ticks[-1][0], "instances (log)", ticks=ticks)
        y = Axis(0, max(value for one in series for _, value in one.points), "requests a second for each instance")
        about = " · ".join(part for part in cell_parts(cells[0]) if not part.endswith(" instances"))
        figures.append(
            figure(
                f"Capacity of an instance by cluster size · {about}",
                labelled_lines("Capacity per instance by cluster size", series, x, y),
                f"At {TARGETS[0]:.0%} within the SLO. A level line: twice the instances bear twice the traffic.",
            )
        )
    return figures


def ablations(study: Study, capacities: Capacities) -> list[str]:
    """Capacity where there are capacity rows, else attainment at the rate that was run; against all techniques on."""
    figures = []
    rows = [r for r in study.capacities if r.experiment is Experiment.ABLATION and isclose(r.attainment, TARGETS[0])]
    for cell, by_name in _by_settings((row, number(row.qps)) for row in rows).items():
        by_name.setdefault(ALL_ON, list(capacities.by_seed(cell, TARGETS[0], DUALMAP).values()))
        unit = f"Requests/s at {TARGETS[0]:.0%} within the SLO"
        figures.append(_ablation(cell, by_name, unit, 1.0))
    if figures:
        return figures
    runs = [run for run in study.runs if run.experiment is Experiment.ABLATION]
    for cell, by_name in _by_settings((run, run.attainment) for run in runs).items():
        by_name.setdefault(ALL_ON, [r.attainment for r in _as_it_is(study, cell, runs)])
        figures.append(_ablation(cell, by_name, "% of requests within the SLO, at equal load", 100.0))
    return figures


def _ablation(cell: Cell, by_name: Mapping[str, Sequence[float]], unit: str, scale: float) -> str:
    values = {name: estimate(value * scale for value in own) for name, own in by_name.items()}
    whole = values.pop(ALL_ON)
    bars = [] if isnan(whole.mean) else [ValueBar(ALL_ON, "dualmap", whole.mean, whole.half, f"{whole.mean:.3g}")]
    for name in sorted((n for n in values if not isnan(values[n].mean)), key=lambda n: values[n].mean):
        change = "" if not whole.mean > 0 else f" ({values[name].mean / whole.mean - 1:+.0%})"
        bars.append(ValueBar(name, "other", values[name].mean, values[name].half, f"{values[name].mean:.3g}{change}"))
    return figure(
        f"One technique off at a time · {cell_name(cell)}",
        value_bars("Ablations", bars, reference=None if isnan(whole.mean) else whole.mean),
        f"{unit}; what costs most to lose comes first.",
    )


def sensitivities(study: Study) -> list[str]:
    """A panel for each constant, all on one y axis, a line for each kind of cell."""
    runs = [r for r in study.runs if r.experiment is Experiment.SENSITIVITY and r.policy == DUALMAP]
    found: dict[str, dict[Cell, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in runs:
        name, value = next(iter(run.config.items()), ("", None))
        if isinstance(value, int | float) and len(run.config) == 1:
            found[name][run.cell][float(value)].append(run.attainment)
    if not found:
        return []
    cells = sorted({cell for by_cell in found.values() for cell in by_cell}, key=cell_order)
    as_it_is = {cell: mean_of(_as_it_is(study, cell, runs), "attainment").mean for cell in cells}
    means = [estimate(v).mean for by_cell in found.values() for by_value in by_cell.values() for v in by_value.values()]
    y = linear(max(min(means) - 0.02, 0), min(max(means) + 0.02, 1), "", percent=True)
    figures = []
    for name, by_cell in sorted(found.items()):
        default = getattr(SchedulerConfig(), name, None)
        default = float(default) if isinstance(default, int | float) else None
        tested = {value for by_value in by_cell.values() for value in by_value}
        at, x = _placed(sorted(tested | ({default} if default is not None else set())))
        series = []
        for place, cell in enumerate(cells):
            if cell not in by_cell:
                continue
            points = {at(value): estimate(own).mean for value, own in by_cell[cell].items()}
            if default is not None and default not in by_cell[cell] and not isnan(as_it_is[cell]):
                points[at(default)] = as_it_is[cell]
            series.append(Series(cell_name(cell), _LINES[place % len(_LINES)], sorted(points.items())))
        shown = panel(name, series, x, y, None if default is None else at(default))
        figures.append(figure(name, shown, "" if default is None else f"default {default:g}"))
    return figures


_LINES = ("dualmap", "paper", "peer", "other")  # of panels, where every line is dualmap: one for each cell


def sensitivity_cells(study: Study) -> list[tuple[str, str]]:
    """What the panels' lines are: CSS class, and the cell with the rates that it was run at."""
    rates: dict[Cell, set[float]] = defaultdict(set)
    for run in study.runs:
        if run.experiment is Experiment.SENSITIVITY and run.policy == DUALMAP:
            rates[run.cell].add(run.qps)
    return [
        (
            _LINES[place % len(_LINES)],
            f"{cell_name(cell)} at {', '.join(f'{qps:.3g}' for qps in sorted(rates[cell]))} requests/s",
        )
        for place, cell in enumerate(sorted(rates, key=cell_order))
    ]


def _placed(values: Sequence[float]) -> tuple[Callable[[float], float], Axis]:
    """Where to draw each value: by its logarithm if they span a factor of eight, 0 then one step to the left."""
    above = [value for value in values if value > 0]
    spans = bool(above) and values[0] >= 0 and above[-1] / above[0] >= 8
    zero = (log10(above[0]) - 0.35) if spans else 0.0

    def at(value: float) -> float:
        return (log10(value) if value > 0 else zero) if spans else value

    ends = at(values[0]), at(values[-1])
    ticks: list[tuple[float, str]] = []
    for value in values:
        if not ticks or at(value) - ticks[-1][0] >= 0.11 * (ends[1] - ends[0]):
            ticks.append((at(value), short_number(value)))
    return at, Axis(*ends, "", ticks=ticks)


ALL_ON = "all on"


def _by_settings(rows: Iterable[tuple[StudyRun | StudyCapacity, float]]) -> dict[Cell, dict[str, list[float]]]:
    found: dict[Cell, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, value in rows:
        name = ", ".join(f"{key}={value}" for key, value in sorted(row.config.items())) or ALL_ON
        found[row.cell][name].append(value)
    return found


def _as_it_is(study: Study, cell: Cell, runs: Iterable[StudyRun]) -> list[StudyRun]:
    """dualmap's runs of this cell without any change, at the rates that `runs` went at."""
    rates = {run.qps for run in runs if run.cell == cell}
    return [r for r in study.runs if r.cell == cell and r.policy == DUALMAP and not r.config and r.qps in rates]


def decision_costs(study: Study, role: Mapping[str, str]) -> list[str]:
    lines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cost in study.costs:
        lines[cost.policy][cost.instances].append(cost.us)
    if not lines:
        return []
    sizes = sorted({size for by_size in lines.values() for size in by_size})
    series = [
        Series(policy, role.get(policy, "other"), [(log2(n), estimate(us).mean) for n, us in sorted(by_size.items())])
        for policy, by_size in lines.items()
    ]
    values = [value for one in series for _, value in one.points]
    x = Axis(log2(sizes[0]), log2(sizes[-1]), "instances (log)", ticks=[(log2(n), str(n)) for n in sizes])
    y = logarithmic(min(values), max(values), "µs of CPU for one decision (log)")
    chart = labelled_lines("Cost of a decision by cluster size", series, x, y)
    return [figure("CPU time of one decision", chart, "Arrival to dispatch, hashing of the prompt excluded.")]
