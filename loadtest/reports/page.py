"""One self-contained HTML page that compares runs: no script, no external asset, light and dark, on a phone too."""

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from math import isnan

from dualmap.loadtest.replay.run_file import Outcome, RequestRow, RunHeader
from dualmap.loadtest.reports.charts import Axis, Bar, Line, bar_chart, heat_map, line_chart, short_number
from dualmap.loadtest.reports.style import SERIES, STYLE
from dualmap.loadtest.reports.summary import RunSummary, computed_tokens, summarise
from dualmap.loadtest.reports.table import COLUMNS, percent, warnings
from dualmap.loadtest.traces.describe import quantile

Run = tuple[RunHeader, list[RequestRow]]
_TIME_BINS = 40
_CDF_POINTS = 200
_TITLES = {
    "cdf": "Time to first token: share of all requests",
    "time": "Time to first token over the run",
    "outcome": "Requests within the objective",
    "hits": "Prompt tokens found in a cache",
    "load": "Load of each instance over the run",
}


def page(runs: Sequence[Run], slo_s: float) -> str:
    """The page. Runs beyond the colours of the palette share them."""
    summaries = [summarise(header, rows, slo_s) for header, rows in runs]
    legend = "".join(
        '<span><svg class="key" viewBox="0 0 24 10">'
        f'<line class="line s{i % SERIES}" x1="1" x2="23" y1="5" y2="5"/></svg>'
        f"{escape(s.label)}</span>"
        for i, s in enumerate(summaries)
    )
    sections = [
        _figure(
            _TITLES["cdf"],
            _cdf(runs, slo_s),
            "Requests that were shed or failed never arrive: their lines end below 100%.",
        ),
        _figure(
            _TITLES["time"], _over_time(runs, slo_s), "Solid: P90, dashed: P50, of the requests released in each step."
        ),
        _figure(_TITLES["outcome"], _outcomes(summaries, slo_s), _OUTCOME_LEGEND),
        _figure(_TITLES["hits"], _hits(summaries), "As reported by the instances (usage.prompt_tokens_details)."),
        *_loads(runs, summaries),
    ]
    doubts = "".join(f'<p class="doubt">{escape(text)}</p>' for text in warnings(summaries))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_page_title(summaries))}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(_page_title(summaries))}</h1>"
        f'<p class="lead">Open-loop replay; objective: first token within {slo_s:g} s. '
        "Shed and failed requests count as misses.</p>"
        f'{doubts}<div class="scroll">{_table(summaries)}</div><div class="legend">{legend}</div>'
        f'<div class="figures">{"".join(sections)}</div>{_parameters(runs, summaries)}</body></html>\n'
    )


def _page_title(summaries: Sequence[RunSummary]) -> str:
    return "Replay: " + " against ".join(s.label for s in summaries)


def _figure(title: str, drawing: str, caption: str) -> str:
    return f"<figure><h2>{escape(title)}</h2>{drawing}<figcaption>{caption}</figcaption></figure>"


def _ttfts(rows: Sequence[RequestRow]) -> list[float]:
    return sorted(row.ttft_s for row in rows if row.outcome is Outcome.OK and row.ttft_s is not None)


def _cdf(runs: Sequence[Run], slo_s: float) -> str:
    lines = []
    shown = [slo_s]
    for number, (header, rows) in enumerate(runs):
        values = [max(value, 1e-3) for value in _ttfts(rows)]
        if not values:
            continue
        total = max(header.requests, len(rows))
        ranks = sorted({round(i * (len(values) - 1) / _CDF_POINTS) for i in range(_CDF_POINTS + 1)})
        lines.append(Line([(values[0], 0.0), *((values[rank], (rank + 1) / total) for rank in ranks)], number % SERIES))
        shown += [values[0], values[-1]]
    x = Axis(min(shown), max(shown), "time to first token, s (log)", log=True)
    y = Axis(0, 1, "share of requests", percent=True)
    return line_chart(_TITLES["cdf"], lines, x, y, mark_x=(slo_s, f"SLO {slo_s:g} s"))


def _over_time(runs: Sequence[Run], slo_s: float) -> str:
    end_s = _end_s(runs)
    step_s = end_s / _TIME_BINS
    lines = []
    most = slo_s
    for number, (_, rows) in enumerate(runs):
        bins: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row.outcome is Outcome.OK and row.ttft_s is not None and row.released_s is not None:
                bins[int(row.released_s / step_s)].append(row.ttft_s)
        for share, dashed in ((0.9, False), (0.5, True)):
            points = [((i + 0.5) * step_s, quantile(sorted(values), share)) for i, values in sorted(bins.items())]
            most = max([most, *(value for _, value in points)])
            lines.append(Line(points, number % SERIES, dashed))
    x = Axis(0, end_s, "time of the run, s")
    y = Axis(0, most, "time to first token, s")
    return line_chart(_TITLES["time"], lines, x, y, mark_y=(slo_s, f"SLO {slo_s:g} s"))


_OUTCOME_LEGEND = (
    '<span class="swatch good"></span>in time <span class="swatch late"></span>late '
    '<span class="swatch shed"></span>shed <span class="swatch bad"></span>failed'
)


def _outcomes(summaries: Sequence[RunSummary], slo_s: float) -> str:
    bars = []
    for s in summaries:
        late = s.ok / s.requests - s.attainment
        parts = [
            (s.attainment, "good", f"within {slo_s:g} s: {percent(s.attainment)}"),
            (late, "late", f"later: {percent(late)}"),
            (s.shed / s.requests, "shed", f"shed: {s.shed}"),
            (s.failed / s.requests, "bad", f"failed: {s.failed}"),
        ]
        bars.append(Bar(s.label, parts, percent(s.attainment)))
    return bar_chart(_TITLES["outcome"], bars)


def _hits(summaries: Sequence[RunSummary]) -> str:
    bars = []
    for number, s in enumerate(summaries):
        share = 0.0 if isnan(s.hit_rate) else s.hit_rate
        bars.append(Bar(s.label, [(share, f"fill{number % SERIES}", percent(s.hit_rate))], percent(s.hit_rate)))
    return bar_chart(_TITLES["hits"], bars)


def _loads(runs: Sequence[Run], summaries: Sequence[RunSummary]) -> list[str]:
    """A heat map for each run, all on one scale: prompt tokens computed a second, by the time of their release."""
    end_s = _end_s(runs)
    step_s = end_s / _TIME_BINS
    maps = []
    for (_, rows), summary in zip(runs, summaries, strict=True):
        cells = {name: [0.0] * _TIME_BINS for name in summary.load_by_instance}
        for row in rows:
            computed = computed_tokens(row)
            if computed is not None and row.instance is not None and row.released_s is not None:
                cells[row.instance][min(int(row.released_s / step_s), _TIME_BINS - 1)] += computed / step_s
        maps.append(cells)
    most = max((value for cells in maps for values in cells.values() for value in values), default=0.0)
    return [
        _figure(
            f"{_TITLES['load']}: {summary.label}",
            heat_map(
                _TITLES["load"],
                list(cells),
                list(cells.values()),
                most,
                Axis(0, end_s, "time of the run, s"),
                step_s,
                "tokens/s",
            ),
            f"Prompt tokens computed (not cached); full colour is {short_number(most)} tokens/s in every run. "
            f"Busiest instance over the mean: {summary.load_skew:.2f}.",
        )
        for cells, summary in zip(maps, summaries, strict=True)
        if cells
    ]


def _end_s(runs: Sequence[Run]) -> float:
    return max((row.released_s for _, rows in runs for row in rows if row.released_s is not None), default=0.0) or 1.0


def _table(summaries: Sequence[RunSummary]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("run", *(name for name, _ in COLUMNS)))
    body = "".join(
        f"<tr><th>{escape(s.label)}</th>" + "".join(f"<td>{escape(show(s))}</td>" for _, show in COLUMNS) + "</tr>"
        for s in summaries
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _parameters(runs: Sequence[Run], summaries: Sequence[RunSummary]) -> str:
    """What was run, in full, so that a page without its context can still be judged."""
    rows = []
    for (header, _), s in zip(runs, summaries, strict=True):
        longest = "none left out" if header.max_input_tokens is None else f"at most {header.max_input_tokens:,} tokens"
        facts = (
            header.note or "not recorded what served it",
            f"trace {header.trace}, {header.requests:,} requests at {header.qps:.2f} a second on average"
            f" ({header.speed:.3g} times the trace's clock), prompts: {longest}",
            f"POST {header.path} at {header.target}, model {header.model}, started {header.started_at}",
            f"{s.held_back:,} turns waited for the turn before them; each session's turns ran in order",
        )
        rows.append(f"<dt>{escape(s.label)}</dt>" + "".join(f"<dd>{escape(fact)}</dd>" for fact in facts))
    return f"<h2>What was run</h2><dl>{''.join(rows)}</dl>"
