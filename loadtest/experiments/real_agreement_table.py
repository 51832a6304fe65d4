"""A replay in front of real servers and the same in front of simulated ones, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dualmap.instances.server.metrics import ServerMetrics
from dualmap.loadtest.replay.run_file import RequestRow, RunHeader
from dualmap.loadtest.reports.summary import RunSummary, summarise
from dualmap.loadtest.traces.describe import quantile

P50_TOLERANCE, P90_TOLERANCE = 0.15, 0.25  # of the real TTFT
HIT_TOLERANCE = 0.02  # of all prompt tokens


@dataclass(frozen=True, slots=True)
class AgreementSide:
    """One of the two. hit_rate: of prompt tokens, by the servers' own counters. tokens_per_s: generated, from the first
    request to the end of the last. queued_p90_s: in the gateway."""

    run: RunSummary
    hit_rate: float
    tokens_per_s: float
    queued_p90_s: float


def side(
    header: RunHeader, rows: Sequence[RequestRow], before: Sequence[ServerMetrics], after: Sequence[ServerMetrics]
) -> AgreementSide:
    """before, after: of each server."""
    hits = sum(m.prefix_hits_tokens for m in after) - sum(m.prefix_hits_tokens for m in before)
    queries = sum(m.prefix_queries_tokens for m in after) - sum(m.prefix_queries_tokens for m in before)
    ends_s = max((row.released_s or 0.0) + (row.e2e_s or 0.0) for row in rows)
    return AgreementSide(
        summarise(header, rows, header.slo_s),
        hits / max(queries, 1),
        sum(row.completion_tokens or 0 for row in rows) / ends_s,
        quantile(sorted((row.queue_ms or 0.0) / 1000 for row in rows), 0.9),
    )


def holds(real: AgreementSide, simulated: AgreementSide) -> bool:
    return (
        abs(simulated.run.ttft_p50_s / real.run.ttft_p50_s - 1) <= P50_TOLERANCE
        and abs(simulated.run.ttft_p90_s / real.run.ttft_p90_s - 1) <= P90_TOLERANCE
        and abs(simulated.hit_rate - real.hit_rate) <= HIT_TOLERANCE
    )


def table(real: AgreementSide, simulated: AgreementSide) -> str:
    """Markdown."""
    seconds: Sequence[tuple[str, Callable[[AgreementSide], float]]] = (
        ("TTFT P50", lambda s: s.run.ttft_p50_s),
        ("TTFT P90", lambda s: s.run.ttft_p90_s),
        ("TTFT P99", lambda s: s.run.ttft_p99_s),
        ("queued in the gateway P90", lambda s: s.queued_p90_s),
        ("time per token", lambda s: s.run.mean_inter_token_s),
        ("end to end P50", lambda s: s.run.e2e_p50_s),
        ("end to end P90", lambda s: s.run.e2e_p90_s),
    )
    lines = ["|  | real | simulated | error |", "|---|---|---|---|"]
    lines.append(f"| answered | {real.run.ok} | {simulated.run.ok} | |")
    for name, value in seconds:
        here, there = value(real), value(simulated)
        lines.append(f"| {name} | {here:.3f} s | {there:.3f} s | {_error(here, there)} |")
    here, there = real.tokens_per_s, simulated.tokens_per_s
    lines.append(f"| tokens generated a second | {here:.1f} | {there:.1f} | {_error(here, there)} |")
    points = 100 * (simulated.hit_rate - real.hit_rate)
    lines.append(
        f"| prompt tokens found cached | {real.hit_rate:.1%} | {simulated.hit_rate:.1%} | {points:+.1f} points |"
    )
    return "\n".join(lines)


def _error(here: float, there: float) -> str:
    return f"{there / here - 1:+.1%}" if here else ""
