"""Whether numbers that should stay do stay: slopes of what was sampled over hours, as a table and as a page."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dualmap.loadtest.reports.charts import Axis, Line, line_chart, linear
from dualmap.loadtest.reports.style import STYLE

HOUR_S = 3600.0
Points = Sequence[tuple[float, float]]  # seconds and value


@dataclass(frozen=True, slots=True)
class Drift:
    """Of one number, once warm. slope: of the line of least squares, in an hour. error: its standard error."""

    name: str
    first: float
    last: float
    least: float
    most: float
    slope: float
    error: float

    @property
    def grows(self) -> bool:
        """Beyond what its scatter explains: samples that follow each other are alike, hence far beyond."""
        return self.slope > 6 * self.error and self.slope > 0.05 * max(self.first, 1.0)


def drift(name: str, points: Points, warm_s: float) -> Drift:
    """warm_s: what was sampled before does not count, unless nothing was sampled later."""
    warm = [point for point in points if point[0] >= warm_s] or list(points)
    values = [value for _, value in warm]
    slope, error = _line(warm)
    return Drift(name, values[0], values[-1], min(values), max(values), slope * HOUR_S, error * HOUR_S)


def _line(points: Points) -> tuple[float, float]:
    """Slope and its standard error, in a second."""
    count = len(points)
    mean_x, mean_y = (sum(column) / count for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if count < 3 or not spread:
        return 0.0, 0.0
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, (left / (count - 2) / spread) ** 0.5


def rows(drifts: Iterable[Drift]) -> Iterator[Sequence[str]]:
    yield ("", "first", "last", "least", "most", "slope an hour", "± standard error")
    for one in drifts:
        values = (f"{value:,.6g}" for value in (one.first, one.last, one.least, one.most))
        yield (one.name, *values, f"{one.slope:+,.3g}", f"{one.error:,.2g}")


def markdown(lines: Iterable[Sequence[str]]) -> str:
    head, *body = lines
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def page(title: str, lead: str, series: Mapping[str, Points], marks: str = "") -> str:
    """A figure for each number. marks: what the reader should know of all of them."""
    end_s = max((points[-1][0] for points in series.values() if points), default=1.0)
    time = linear(0.0, end_s / 60.0, "minutes")
    figures = []
    for name, points in series.items():
        line = Line([(at / 60.0, value) for at, value in points], 1)
        most = Axis(0.0, max((value for _, value in points), default=1.0), "")
        drawing = line_chart(name, [line], time, most)
        figures.append(f"<figure><h2>{escape(name)}</h2>{drawing}</figure>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p><div class="figures">{"".join(figures)}</div>'
        f"<p>{escape(marks)}</p></body></html>\n"
    )
