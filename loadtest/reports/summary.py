"""The numbers of one run: what reports show, and how it is counted. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dualmap.loadtest.replay.run_file import Outcome, RequestRow, RunHeader
from dualmap.loadtest.traces.describe import quantile


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run. Times in seconds; nan where nothing was measured.

    failed: all that is neither ok nor shed: HTTP errors, broken streams, time-outs, no connection, unfinished.
    unfinished: of the failed, those that the end of the run cut off or kept from being sent.
    attainment: share of all requests that ended ok with a first byte within the SLO; shed and failed ones are misses.
    ttft_p*, e2e_p*, mean_inter_token_s: over the requests that ended ok.
    hit_rate: cached / prompt tokens, over the requests for which the server reported both; nan if none.
    load_by_instance: prompt tokens computed (not cached) by each instance that answered.
    load_skew: the largest of these over their mean; 1.0 is even.
    held_back: turns that were sent late because the turn before them was still running.
    send_lag_p99_s: release to last byte sent; large values mean that this client was short of CPU.
    """

    label: str
    requests: int
    ok: int
    shed: int
    failed: int
    unfinished: int
    attainment: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    mean_inter_token_s: float
    e2e_p50_s: float
    e2e_p90_s: float
    hit_rate: float
    load_by_instance: dict[str, int]
    load_skew: float
    held_back: int
    send_lag_p99_s: float


def met_slo(row: RequestRow, slo_s: float) -> bool:
    return row.outcome is Outcome.OK and row.ttft_s is not None and row.ttft_s <= slo_s


def computed_tokens(row: RequestRow) -> int | None:
    """Prompt tokens that the instance had to compute; None where the server did not say."""
    if row.prompt_tokens is None or row.cached_tokens is None:
        return None
    return row.prompt_tokens - row.cached_tokens


def summarise(header: RunHeader, rows: Sequence[RequestRow], slo_s: float) -> RunSummary:
    """Requests without a row (a run file cut short) count as unfinished."""
    ok = [row for row in rows if row.outcome is Outcome.OK]
    shed = sum(row.outcome is Outcome.SHED for row in rows)
    missing = max(header.requests - len(rows), 0)
    total = len(rows) + missing
    ttfts = sorted(row.ttft_s for row in ok if row.ttft_s is not None)
    e2es = sorted(row.e2e_s for row in ok if row.e2e_s is not None)
    paces = [row.mean_inter_token_s for row in ok if row.mean_inter_token_s is not None]
    lags = sorted(row.sent_s - row.released_s for row in rows if row.sent_s is not None and row.released_s is not None)
    loads: dict[str, int] = defaultdict(int)
    prompt_tokens = cached_tokens = 0
    for row in rows:
        computed = computed_tokens(row)
        if computed is None:
            continue
        prompt_tokens += row.prompt_tokens or 0
        cached_tokens += row.cached_tokens or 0
        if row.instance is not None:
            loads[row.instance] += computed
    return RunSummary(
        label=header.label,
        requests=total,
        ok=len(ok),
        shed=shed,
        failed=total - len(ok) - shed,
        unfinished=missing + sum(row.outcome is Outcome.UNFINISHED for row in rows),
        attainment=_ratio(sum(met_slo(row, slo_s) for row in rows), total),
        ttft_p50_s=quantile(ttfts, 0.5),
        ttft_p90_s=quantile(ttfts, 0.9),
        ttft_p99_s=quantile(ttfts, 0.99),
        mean_inter_token_s=_ratio(sum(paces), len(paces)),
        e2e_p50_s=quantile(e2es, 0.5),
        e2e_p90_s=quantile(e2es, 0.9),
        hit_rate=_ratio(cached_tokens, prompt_tokens),
        load_by_instance=dict(sorted(loads.items())),
        load_skew=_ratio(max(loads.values(), default=0) * len(loads), sum(loads.values())),
        held_back=sum(row.held_back_s > 0.05 for row in rows),
        send_lag_p99_s=quantile(lags, 0.99),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
