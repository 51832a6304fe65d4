"""What a trace looks like, in numbers that matter for prefix caching."""

from collections import Counter
from collections.abc import Sequence

from dualmap.loadtest.traces.sessions import predecessors
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest-rank quantile of sorted values; nan of none. share: 0 to 1."""
    if not values:
        return float("nan")
    return values[min(int(len(values) * share), len(values) - 1)]


def reusable_share(requests: Sequence[TraceRequest]) -> float:
    """Share of prompt tokens in full blocks that an earlier request had: the hit rate of one endless cache."""
    seen: set[int] = set()
    reused = 0
    for request in requests:
        full = request.hash_ids[: request.full_blocks]
        reused += sum(block_id in seen for block_id in full)
        seen.update(full)
    return reused * BLOCK_TOKENS / sum(r.input_length for r in requests)


def describe(requests: Sequence[TraceRequest]) -> list[tuple[str, str]]:
    """(what, value) pairs in the order to show them."""
    duration_s = (requests[-1].timestamp_ms - requests[0].timestamp_ms) / 1000
    inputs = sorted(r.input_length for r in requests)
    outputs = sorted(r.output_length for r in requests)
    before = predecessors(requests)
    gaps_s = sorted(
        (request.timestamp_ms - requests[index].timestamp_ms) / 1000
        for request, index in zip(requests, before, strict=True)
        if index is not None
    )
    chats = before.count(None)
    openings = Counter(r.hash_ids[:2] for r in requests)
    opening, uses = openings.most_common(1)[0]
    return [
        ("requests", f"{len(requests):,}"),
        ("duration", f"{duration_s:,.0f} s"),
        ("arrival rate", f"{len(requests) / duration_s:.2f} requests/s" if duration_s else "all at once"),
        ("prompt tokens", _spread(inputs)),
        ("output tokens", _spread(outputs)),
        ("chats", f"{chats:,} ({len(requests) / chats:.2f} turns each)"),
        ("between turns", f"{_spread(gaps_s)} s" if gaps_s else "no second turns"),
        ("reusable", f"{reusable_share(requests):.1%} of prompt tokens lie in blocks that came before"),
        ("first blocks", f"{len({r.hash_ids[0] for r in requests}):,} different"),
        (
            "first two blocks",
            f"{len(openings):,} different; the hottest {list(opening)} has {uses / len(requests):.1%}",
        ),
    ]


def _spread(values: Sequence[float]) -> str:
    shown = " / ".join(f"{quantile(values, share):,.0f}" for share in (0.1, 0.5, 0.9, 0.99))
    return f"{sum(values) / len(values):,.0f} on average, P10 / P50 / P90 / P99 {shown}"
