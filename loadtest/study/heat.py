"""The table of all cells: a row for each cell, a column for each policy, coloured by distance from the best peer."""

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan

from dualmap.loadtest.study.file import Cell
from dualmap.loadtest.study.tables import BOUND, Capacities, geometric_mean
from dualmap.loadtest.study.text import NONE, amount, cell_parts

_FULL_COLOUR = 0.5  # distance from 1.0 that has the whole colour


def heat_table(capacities: Capacities, target: float, standing: Sequence[str], role: Mapping[str, str]) -> str:
    """Capacity over that of the best peer of the same cell. Geometric means over the cells a policy has, below."""
    columns = [p for p in standing if any(p in capacities.policies(cell, target) for cell in capacities.cells)]
    head = "".join(f'<th class="turn {_css(p, role)}"><span>{escape(p)}</span></th>' for p in columns)
    rows = []
    ratios: dict[str, list[float]] = {policy: [] for policy in columns}
    for cell in capacities.cells:
        best = capacities.best_peer(cell, target)
        if best is None:
            continue
        shown = []
        for policy in columns:
            found = capacities.ratio(cell, target, policy, best)
            ratios[policy].append(found.mean)
            rate = f"{policy}: {amount(capacities.of(cell, target, policy))} requests/s, ratio {amount(found)}"
            shown.append(_cell(found.mean, rate, _css(policy, role) + (" best" if policy == best else "")))
        peak = amount(capacities.of(cell, target, best))
        rows.append(f"<tr><th>{_cell_title(cell)}</th>{''.join(shown)}<td>{peak}</td></tr>")
    means = "".join(_cell(geometric_mean(ratios[p]), p, _css(p, role)) for p in columns)
    return (
        f'<table class="heat-table"><thead><tr><th>cell</th>{head}<th>best peer,<br>requests/s</th></tr></thead>'
        f'<tbody>{"".join(rows)}<tr class="mean"><th>geometric mean</th>{means}<td></td></tr></tbody></table>'
    )


def _cell(value: float, title: str, css: str) -> str:
    if isnan(value):
        return f'<td class="gone {css}" title="{escape(title)}">{NONE}</td>'
    much = round(min(abs(value - 1) / _FULL_COLOUR, 1) * 85)
    side = "" if css == "apart" else "up" if value >= 1 else "down"  # the bound is no contender
    return f'<td class="{side} {css}" style="--much:{much}%" title="{escape(title)}">{value:.2f}</td>'


def _css(policy: str, role: Mapping[str, str]) -> str:
    return "apart" if policy == BOUND else role[policy]


def _cell_title(cell: Cell) -> str:
    trace, *rest = cell_parts(cell)
    return f"{escape(trace)}<small>{escape(' · '.join(rest))}</small>"
