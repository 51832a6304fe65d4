"""Inline SVG charts for the report: lines, stacked bars and a heat map. Colours come from the page's style sheet.

Every chart is WIDTH units wide and scales with its container; its type stays readable down to a phone's width.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH = 480
HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44


class Frame(NamedTuple):
    """Size of a chart and the margins around what its axes span."""

    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM

    def x(self, axis: "Axis", value: float) -> float:
        return self.left + axis.position(value) * (self.width - self.left - self.right)

    def y(self, axis: "Axis", value: float) -> float:
        return self.height - self.bottom - axis.position(value) * (self.height - self.top - self.bottom)


FRAME = Frame()


class Line(NamedTuple):
    """points: (x, y) in the units of the axes. series: number of its colour. dashed: a second line of the same run."""

    points: Sequence[tuple[float, float]]
    series: int
    dashed: bool = False


class Axis:
    """A linear or logarithmic axis and its ticks. Values outside are drawn at its ends.

    ticks: where to draw them and what to write there; the axis then runs from least to most exactly.
    """

    def __init__(
        self,
        least: float,
        most: float,
        label: str,
        *,
        log: bool = False,
        percent: bool = False,
        ticks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        self.label = label
        self._log = log
        self._percent = percent
        self._names = dict(ticks or ())
        if ticks is not None:
            self.least, self.most = least, most if most > least else least + 1
            self.ticks = [at for at, _ in ticks]
        elif log:
            self.least, self.most = 10.0 ** floor(log10(least)), 10.0 ** ceil(log10(most))
            if self.least == self.most:
                self.most *= 10
            decades = range(round(log10(self.least)), round(log10(self.most)) + 1)
            self.ticks = [10.0**decade for decade in decades]
        else:
            step = _round_step((most - least) / 5 or 1.0)
            self.least, self.most = floor(least / step) * step, max(ceil(most / step), 1) * step
            self.ticks = [self.least + step * i for i in range(round((self.most - self.least) / step) + 1)]

    def position(self, value: float) -> float:
        """0 to 1 along the axis."""
        value = min(max(value, self.least), self.most)
        if self._log:
            return (log10(value) - log10(self.least)) / (log10(self.most) - log10(self.least))
        return (value - self.least) / (self.most - self.least)

    def tick_text(self, value: float) -> str:
        if value in self._names:
            return self._names[value]
        return f"{value * 100:.3g}%" if self._percent else short_number(value)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    mark_x: tuple[float, str] | None = None,
    mark_y: tuple[float, str] | None = None,
) -> str:
    """Lines over two axes. mark_x, mark_y: a value to mark across the chart, and its name."""
    drawn = [axes(x, y)]
    if mark_x:
        at = FRAME.x(x, mark_x[0])
        anchor, shift = ("end", -5) if x.position(mark_x[0]) > 0.5 else ("start", 5)
        drawn.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        drawn.append(text(at + shift, HEIGHT - BOTTOM - 8, mark_x[1], anchor))
    if mark_y:
        at = FRAME.y(y, mark_y[0])
        drawn.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        drawn.append(text(WIDTH - RIGHT - 4, at - 5, mark_y[1], "end"))
    for line in lines:
        path = " ".join(f"{FRAME.x(x, px):.1f},{FRAME.y(y, py):.1f}" for px, py in line.points)
        dash = " dashed" if line.dashed else ""
        drawn.append(f'<polyline class="line s{line.series}{dash}" points="{path}"/>')
    return svg(title, HEIGHT, drawn)


class Bar(NamedTuple):
    """One horizontal bar of parts that add up to at most 1. parts: (share, CSS class, what it is)."""

    label: str
    parts: Sequence[tuple[float, str, str]]
    value: str


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from 0 to 100%, the label above each."""
    row = 46
    drawn = []
    width = WIDTH - 90
    for number, bar in enumerate(bars):
        top = 4 + number * row
        drawn.append(text(2, top + 12, bar.label, "start", "name"))
        drawn.append(f'<rect class="track" x="2" y="{top + 18}" width="{width}" height="18" rx="3"/>')
        left = 2.0
        for share, css, what in bar.parts:
            drawn.append(
                f'<rect class="{css}" x="{left:.1f}" y="{top + 18}" width="{max(share, 0) * width:.1f}" height="18">'
                f"<title>{escape(what)}</title></rect>"
            )
            left += max(share, 0) * width
        drawn.append(text(WIDTH - 2, top + 32, bar.value, "end", "name"))
    return svg(title, 8 + len(bars) * row, drawn)


def heat_map(
    title: str, names: Sequence[str], cells: Sequence[Sequence[float]], most: float, x: Axis, step: float, unit: str
) -> str:
    """A row for each name, a column for each step of x, darker for more. most: what has the full colour."""
    column_share = x.position(x.least + step)
    row = max(14, min(28, 220 // max(len(names), 1)))
    left, height = 96, row * len(names)
    width = WIDTH - left - RIGHT
    drawn = []
    for number, (name, values) in enumerate(zip(names, cells, strict=True)):
        top = TOP + number * row
        drawn.append(text(left - 6, top + row / 2 + 4, name if len(name) <= 13 else f"…{name[-12:]}", "end"))
        column_width = width * column_share
        drawn_width = max(column_width - 0.6, 0.6)
        for column, value in enumerate(values):
            drawn.append(
                f'<rect class="heat" x="{left + column * column_width:.1f}" y="{top}" width="{drawn_width:.1f}"'
                f' height="{row - 2}" fill-opacity="{min(value / most, 1) if most else 0:.2f}">'
                f"<title>{escape(name)}: {short_number(value)} {unit}</title></rect>"
            )
    for tick in x.ticks:
        at = left + x.position(tick) * width
        drawn.append(text(at, TOP + height + 16, x.tick_text(tick), "middle"))
    drawn.append(text(left + width / 2, TOP + height + 34, x.label, "middle"))
    return svg(title, TOP + height + BOTTOM, drawn)


def linear(least: float, most: float, label: str, percent: bool = False) -> Axis:
    """From exactly least to most, with round ticks between: no room lost beside lines."""
    round_axis = Axis(least, most, label, percent=percent)
    ticks = [(tick, round_axis.tick_text(tick)) for tick in round_axis.ticks if least <= tick <= most]
    return Axis(least, most, label, ticks=ticks)


def logarithmic(least: float, most: float, label: str) -> Axis:
    """Snug, with round ticks: the finer, the less it spans. least and most are above 0."""
    steps = (1, 1.5, 2, 3, 5, 7) if most < 12 * least else (1, 2, 5)
    scale = [m * 10.0**d for d in range(floor(log10(least)) - 1, ceil(log10(most)) + 2) for m in steps]
    ticks = [s for s in scale if least <= s <= most]
    if len(ticks) < 2:
        least, most = max(s for s in scale if s <= least), min(s for s in scale if s >= most)
        ticks = [s for s in scale if least <= s <= most]
    if len(ticks) > 9:
        ticks = [s for s in ticks if f"{s:.0e}".startswith("1")]
    return Axis(least, most, label, log=True, ticks=[(s, short_number(s)) for s in ticks])


def short_number(value: float) -> str:
    """At most four characters and a suffix: 0.05, 2.5, 300, 12k, 3.4M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    scale = 10.0 ** floor(log10(least))
    return next(scale * m for m in (1, 2, 2.5, 5, 10) if scale * m >= least * 0.999)


def axes(x: Axis, y: Axis, frame: Frame = FRAME) -> str:
    drawn = []
    left, right, foot = frame.left, frame.width - frame.right, frame.height - frame.bottom
    for tick in y.ticks:
        at = frame.y(y, tick)
        drawn.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        drawn.append(text(left - 6, at + 4, y.tick_text(tick), "end"))
    for tick in x.ticks:
        at = frame.x(x, tick)
        drawn.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{frame.top}" y2="{foot}"/>')
        drawn.append(text(at, foot + 17, x.tick_text(tick), "middle"))
    if x.label:
        drawn.append(text((left + right) / 2, frame.height - 8, x.label, "middle"))
    if not y.label:
        return "".join(drawn)
    turned = f'transform="translate(13 {(frame.top + foot) / 2}) rotate(-90)"'
    drawn.append(f'<text class="tick" text-anchor="middle" {turned}>{escape(y.label)}</text>')
    return "".join(drawn)


def text(x: float, y: float, shown: str, anchor: str, css: str = "tick") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'


def svg(title: str, height: float, drawn: Sequence[str], width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(drawn)
        + "</svg>"
    )
