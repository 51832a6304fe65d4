"""The page of a run in which instances come and go: load, instances and what clients saw, on the same time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from dualmap.loadtest.reports.charts import Axis, Line, line_chart, linear
from dualmap.loadtest.reports.style import STYLE
from dualmap.loadtest.traces.describe import quantile

STEPS = 33  # of which each is a point of a line
Counts = Sequence[tuple[float, int, int]]  # seconds, instances ready, all there are


@dataclass(frozen=True, slots=True)
class Served:
    """A request: when it was due, and its time to first token, None if it failed."""

    due_s: float
    ttft_s: float | None


def timeline_page(
    title: str,
    served: Sequence[Served],
    counts: Counts,
    verdict: str,
    slo_s: float,
    burst: tuple[float, float] | None = None,
) -> str:
    """burst: from when to when."""
    end_s = max((one.due_s for one in served), default=1.0)
    step_s = end_s / STEPS
    time = linear(0.0, end_s, "seconds")

    def binned(value: Callable[[list[float]], float], dashed: bool = False) -> Line:
        """The value of the times to first token in each step; inf stands for those that failed."""
        bins: dict[int, list[float]] = {}
        for one in served:
            ttft_s = float("inf") if one.ttft_s is None else one.ttft_s
            bins.setdefault(min(STEPS - 1, int(one.due_s // step_s)), []).append(ttft_s)
        points = [((i + 0.5) * step_s, value(sorted(part))) for i, part in sorted(bins.items())]
        return Line(points, 1 if dashed else 0, dashed)

    figures = [
        _figure("Requests a second", [binned(lambda part: len(part) / step_s)], time, burst),
        _figure(
            "Instances: ready, and all there are, those starting and draining included (dashed)",
            [
                Line([(at, ready) for at, ready, _ in counts], 0),
                Line([(at, there) for at, _, there in counts], 1, dashed=True),
            ],
            time,
            burst,
        ),
        _figure(
            "Time to first token, seconds: P90 and P50 (dashed)",
            [binned(lambda part: quantile(part, 0.9)), binned(lambda part: quantile(part, 0.5), True)],
            time,
            burst,
        ),
        _figure(
            f"Share within {slo_s:g} s",
            [binned(lambda part: sum(ttft_s <= slo_s for ttft_s in part) / len(part))],
            time,
            burst,
            percent=True,
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(verdict)}</p><div class="figures">{"".join(figures)}</div></body></html>\n'
    )


def _figure(title: str, lines: list[Line], time: Axis, burst: tuple[float, float] | None, percent: bool = False) -> str:
    most = 1.0 if percent else max((y for line in lines for _, y in line.points if y != float("inf")), default=1.0)
    mark = None if burst is None else (burst[0], "burst")
    drawing = line_chart(title, lines, time, Axis(0.0, most, "", percent=percent), mark_x=mark)
    caption = "" if burst is None else f"The burst is from {burst[0]:g} to {burst[1]:g} s."
    return f"<figure><h2>{escape(title)}</h2>{drawing}<figcaption>{caption}</figcaption></figure>"
