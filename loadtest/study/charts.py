"""Charts of the policy study: labelled lines, a scatter, bars with intervals, small panels.

A dozen policies cannot have a dozen colours. Each mark has a role, which is its CSS class: dualmap, paper, peer (the
best of the others) and bound stand out, "other" is quiet until pointed at; names are written beside the marks.
"""

from collections.abc import Sequence
from html import escape
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.reports.charts import Axis, Frame, axes, short_number, svg, text

ROLES = ("other", "bound", "peer", "paper", "dualmap")  # drawn in this order, what matters on top
FRAME = Frame(height=330, right=146)
PANEL = Frame(width=240, height=160, left=44, right=14, top=10, bottom=24)
_SCATTER = Frame(height=330, right=24)
_NAME_CHARACTERS = 19


class Series(NamedTuple):
    """One policy's points, in the units of the axes."""

    name: str
    role: str
    points: Sequence[tuple[float, float]]


def labelled_lines(
    title: str, series: Sequence[Series], x: Axis, y: Axis, mark_x: float | None = None, mark_y: float | None = None
) -> str:
    """Lines, each named at its end. mark_x, mark_y: values to mark across the chart."""
    drawn = [axes(x, y, FRAME)]
    right, foot = FRAME.width - FRAME.right, FRAME.height - FRAME.bottom
    if mark_x is not None:
        at = FRAME.x(x, mark_x)
        drawn.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{FRAME.top}" y2="{foot}"/>')
    if mark_y is not None:
        at = FRAME.y(y, mark_y)
        drawn.append(f'<line class="mark" x1="{FRAME.left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
    shown = sorted((s for s in series if s.points), key=lambda s: ROLES.index(s.role))
    ends = [FRAME.y(y, s.points[-1][1]) for s in shown]
    for one, end, label_y in zip(shown, ends, spread(ends, FRAME.top + 4, foot, 16), strict=True):
        path = " ".join(f"{FRAME.x(x, px):.1f},{FRAME.y(y, py):.1f}" for px, py in one.points)
        last = FRAME.x(x, one.points[-1][0])
        lead = f"{last:.1f},{end:.1f} {right + 2},{end:.1f} {right + 12},{label_y:.1f}"
        drawn.append(
            f'<g class="policy {one.role}"><title>{escape(one.name)}</title>'
            f'<polyline class="reach" points="{path}"/><polyline class="line" points="{path}"/>'
            f'<polyline class="lead-line" points="{lead}"/>'
            f"{_dots(one.points, x, y, FRAME) if len(one.points) <= 12 else ''}"
            f"{text(right + 15, label_y + 4, _short(one.name), 'start', 'end')}</g>"
        )
    return svg(title, FRAME.height, drawn)


def spread(wanted: Sequence[float], least: float, most: float, gap: float) -> list[float]:
    """Heights near the wanted ones, in their order, `gap` apart or as far as there is room from least to most."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (most - least) / max(len(wanted) - 1, 1))
    placed = list(wanted)
    floor = least
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = most
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def scatter(title: str, points: Sequence[Series], x: Axis, y: Axis) -> str:
    """One point a policy, named beside it or at the end of a short line; what matters chooses its place first."""
    at = [(p, _SCATTER.x(x, p.points[0][0]), _SCATTER.y(y, p.points[0][1])) for p in points]
    taken = [(px - 6, py - 6, px + 6, py + 6) for _, px, py in at]
    drawn = []
    for point, px, py in sorted(at, key=lambda one: -ROLES.index(one[0].role)):
        name = _short(point.name)
        label = ""
        for dx, dy in _LABEL_PLACES:
            width = 7.2 * len(name)
            start, base = (px + dx if dx > 0 else px + dx - width), py + 4 + dy
            box = (start, base - 11, start + width, base + 4)
            inside = box[0] > _SCATTER.left and box[2] < _SCATTER.width and box[1] > 0 and box[3] < _FOOT
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                lead = f"{px:.1f},{py:.1f} {px + dx * 0.85:.1f},{py + dy:.1f}"
                line = f'<polyline class="lead-line" points="{lead}"/>' if dy else ""
                label = line + text(px + dx, base, name, "start" if dx > 0 else "end", "end")
                break
        radius = 4.5 if point.role == "other" else 6.5
        what = f"{point.name}: {short_number(point.points[0][0])}, {short_number(point.points[0][1])}"
        drawn.append(
            f'<g class="policy {point.role}"><title>{escape(what)}</title>{label}'
            f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/></g>'
        )
    return svg(title, _SCATTER.height, [axes(x, y, _SCATTER), *reversed(drawn)])


_FOOT = _SCATTER.height - _SCATTER.bottom
_LABEL_PLACES = (
    (9, 0),
    (-9, 0),
    *((dx, dy) for far in (16, 30, 44, 58, 72, 90) for dy in (far, -far) for dx in (14, -14)),
)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class ValueBar(NamedTuple):
    """half: half width of the interval drawn at its end, nan for none. shown: what is written beside it."""

    name: str
    role: str
    value: float
    half: float
    shown: str


def value_bars(title: str, bars: Sequence[ValueBar], least: float = 0.0, reference: float | None = None) -> str:
    """Horizontal bars, at least one, from `least`, with their intervals. reference: a value to mark across all."""
    row = 23
    left = min(max(7.6 * len(bar.name) for bar in bars) + 12, 290)
    right = max(7.4 * len(bar.shown) for bar in bars) + 10
    most = max(b.value + (0 if isnan(b.half) else b.half) for b in bars)
    span = (480 - left - right) / ((most - least) or 1.0)
    height = 8 + row * len(bars)
    drawn = []
    for number, bar in enumerate(bars):
        top = 4 + number * row
        end = left + max(bar.value - least, 0) * span
        whisker = ""
        if not isnan(bar.half) and bar.half > 0:
            low, high = max(end - bar.half * span, left), end + bar.half * span
            whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{top + 9}" y2="{top + 9}"/>'
        drawn.append(
            f'<g class="policy {bar.role}"><title>{escape(f"{bar.name}: {bar.shown}")}</title>'
            f"{text(left - 8, top + 13, _short(bar.name, 37), 'end', 'end')}"
            f'<rect class="bar" x="{left:.1f}" y="{top}" width="{max(end - left, 1):.1f}" height="18" rx="2"/>{whisker}'
            f"{text(480 - 2, top + 13, bar.shown, 'end', 'end')}</g>"
        )
    if reference is not None:
        at = left + (reference - least) * span
        drawn.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height - 2}"/>')
    return svg(title, height, drawn)


def panel(title: str, series: Sequence[Series], x: Axis, y: Axis, default_x: float | None = None) -> str:
    """A small chart, one of many on the same y axis. default_x: the value in use, marked."""
    drawn = [axes(x, y, PANEL)]
    if default_x is not None:
        at = PANEL.x(x, default_x)
        drawn.append(
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{PANEL.top}" y2="{PANEL.height - PANEL.bottom}"/>'
        )
    for one in series:
        path = " ".join(f"{PANEL.x(x, px):.1f},{PANEL.y(y, py):.1f}" for px, py in one.points)
        drawn.append(
            f'<g class="policy {one.role}"><title>{escape(one.name)}</title><polyline class="line" points="{path}"/>'
            f"{_dots(one.points, x, y, PANEL)}</g>"
        )
    return svg(title, PANEL.height, drawn, PANEL.width)


def _dots(points: Sequence[tuple[float, float]], x: Axis, y: Axis, frame: Frame) -> str:
    return "".join(
        f'<circle class="knot" cx="{frame.x(x, px):.1f}" cy="{frame.y(y, py):.1f}" r="2.4"/>' for px, py in points
    )


def _short(name: str, most: int = _NAME_CHARACTERS) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
