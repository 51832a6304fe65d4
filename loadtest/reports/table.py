"""The table that compares runs, for a terminal and for the HTML page."""

from collections.abc import Callable, Sequence
from math import isnan

from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.reports.summary import RunSummary


def seconds(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


def milliseconds(value: float) -> str:
    return "-" if isnan(value) else f"{value * 1000:.1f}"


def percent(value: float) -> str:
    return "-" if isnan(value) else f"{value:.1%}"


def ratio(value: float) -> str:
    return "-" if isnan(value) else f"{value:.2f}"


COLUMNS: tuple[tuple[str, Callable[[RunSummary], str]], ...] = (
    ("requests", lambda s: str(s.requests)),
    ("ok", lambda s: str(s.ok)),
    ("shed", lambda s: str(s.shed)),
    ("failed", lambda s: str(s.failed)),
    ("in SLO", lambda s: percent(s.attainment)),
    ("TTFT P50 s", lambda s: seconds(s.ttft_p50_s)),
    ("P90 s", lambda s: seconds(s.ttft_p90_s)),
    ("P99 s", lambda s: seconds(s.ttft_p99_s)),
    ("per token ms", lambda s: milliseconds(s.mean_inter_token_s)),
    ("E2E P50 s", lambda s: seconds(s.e2e_p50_s)),
    ("E2E P90 s", lambda s: seconds(s.e2e_p90_s)),
    ("hit rate", lambda s: percent(s.hit_rate)),
    ("load max/mean", lambda s: ratio(s.load_skew)),
)


def text_table(summaries: Sequence[RunSummary], slo_s: float) -> str:
    """One line a run, and what to know before believing it."""
    header = ["run", *(name for name, _ in COLUMNS)]
    rows = [header, *([s.label, *(show(s) for _, show in COLUMNS)] for s in summaries)]
    shown = [*aligned(rows, underlined=True), ""]
    shown.append(f"in SLO: first token within {slo_s:g} s; shed and failed requests are misses")
    shown += warnings(summaries)
    return "\n".join(shown)


def warnings(summaries: Sequence[RunSummary]) -> list[str]:
    """What makes a run's numbers doubtful."""
    found = []
    for summary in summaries:
        if summary.unfinished:
            found.append(
                f"{summary.label}: the run ended before {summary.unfinished} of its requests did; they count as failed"
            )
        if summary.send_lag_p99_s > 0.1:
            found.append(
                f"{summary.label}: the client was short of CPU, P99 from release to sent {summary.send_lag_p99_s:.2f} s"
            )
    return found
