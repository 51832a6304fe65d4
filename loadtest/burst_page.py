"""The page of a burst: load, instances and what clients saw, one under the other on the same time."""

from collections.abc import Callable, Sequence
from html import escape

from loadtest.charts import Axis, Line, line_chart, linear
from loadtest.describe import quantile
from loadtest.report_style import STYLE
from loadtest.run_file import RequestRow
from loadtest.summary import met_slo

STEP_S = 10.0
Samples = Sequence[tuple[float, dict[str, int]]]


def burst_page(
    rows: Sequence[RequestRow], samples: Samples, burst: tuple[float, float], verdict: str, slo_s: float
) -> str:
    """samples: seconds of the run and how many instances were in which state. burst: from when to when."""
    end_s = max((row.scheduled_s for row in rows), default=1.0)
    time = linear(0.0, end_s, "seconds")
    figures = [
        _figure("Requests a second", [_binned(rows, lambda part: len(part) / STEP_S)], time, burst),
        _figure(
            "Instances: ready, and all there are, those starting and draining included (dashed)",
            [
                Line([(at, counts.get("ready", 0)) for at, counts in samples], 0),
                Line(
                    [(at, sum(n for s, n in counts.items() if s != "lost")) for at, counts in samples], 1, dashed=True
                ),
            ],
            time,
            burst,
        ),
        _figure(
            "Time to first token, seconds: P90 and P50 (dashed)",
            [
                _binned(rows, lambda part: quantile(sorted(r.ttft_s for r in part if r.ttft_s is not None), 0.9)),
                _binned(rows, lambda part: quantile(sorted(r.ttft_s for r in part if r.ttft_s is not None), 0.5), True),
            ],
            time,
            burst,
        ),
        _figure(
            f"Share within {slo_s:g} s",
            [_binned(rows, lambda part: sum(met_slo(r, slo_s) for r in part) / len(part))],
            time,
            burst,
            percent=True,
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A burst</title><style>{STYLE}</style></head><body><h1>A burst</h1>"
        f'<p class="lead">{escape(verdict)}</p><div class="figures">{"".join(figures)}</div></body></html>\n'
    )


def _binned(rows: Sequence[RequestRow], value: Callable[[list[RequestRow]], float], dashed: bool = False) -> Line:
    """The value of the requests that were due in each step."""
    bins: dict[int, list[RequestRow]] = {}
    for row in rows:
        bins.setdefault(int(row.scheduled_s // STEP_S), []).append(row)
    return Line([((i + 0.5) * STEP_S, value(part)) for i, part in sorted(bins.items())], 1 if dashed else 0, dashed)


def _figure(title: str, lines: list[Line], time: Axis, burst: tuple[float, float], percent: bool = False) -> str:
    most = 1.0 if percent else max((y for line in lines for _, y in line.points), default=1.0)
    drawing = line_chart(title, lines, time, Axis(0.0, most, "", percent=percent), mark_x=(burst[0], "burst"))
    caption = f"The burst is from {burst[0]:g} to {burst[1]:g} s."
    return f"<figure><h2>{escape(title)}</h2>{drawing}<figcaption>{caption}</figcaption></figure>"
