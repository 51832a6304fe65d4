"""Two runs of the same requests side by side: how they differ as a whole, and where most."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isnan

from dualmap.loadtest.experiments.decided import Decided
from dualmap.loadtest.traces.describe import quantile
from dualmap.scheduler.request import ChoiceReason

TTFT_TOLERANCE = 0.10  # of the live value, at P50 and P90
HIT_TOLERANCE = 0.01  # of all prompt tokens
SHOWN = 5  # requests whose first tokens are furthest apart


@dataclass(frozen=True, slots=True)
class Side:
    """One run. TTFT in seconds over the requests that have one, hit_rate of all prompt tokens; reasons: last dispatches
    by why they went there."""

    requests: int
    answered: int
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    hit_rate: float
    reasons: Counter[str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """same_instance: share of requests that went to the same instance."""

    live: Side
    virtual: Side
    same_instance: float
    same_reason: float

    @property
    def holds(self) -> bool:
        near = all(
            abs(there - here) <= TTFT_TOLERANCE * here
            for here, there in (
                (self.live.ttft_p50_s, self.virtual.ttft_p50_s),
                (self.live.ttft_p90_s, self.virtual.ttft_p90_s),
            )
        )
        return near and abs(self.live.hit_rate - self.virtual.hit_rate) <= HIT_TOLERANCE


def compare(live: Mapping[str, Decided], virtual: Mapping[str, Decided]) -> Agreement:
    """By request id; the ids are those of live."""
    pairs = [(one, virtual[request_id]) for request_id, one in live.items()]
    return Agreement(
        _side(live),
        _side(virtual),
        sum(a.instance_id == b.instance_id for a, b in pairs) / len(pairs),
        sum(a.reason == b.reason for a, b in pairs) / len(pairs),
    )


def _side(requests: Mapping[str, Decided]) -> Side:
    ttfts = sorted(one.ttft_s for one in requests.values() if not isnan(one.ttft_s))
    prompt_tokens = sum(one.prompt_tokens for one in requests.values())
    return Side(
        len(requests),
        len(ttfts),
        quantile(ttfts, 0.5),
        quantile(ttfts, 0.9),
        quantile(ttfts, 0.99),
        sum(one.cached_tokens for one in requests.values()) / max(prompt_tokens, 1),
        Counter(one.reason for one in requests.values()),
    )


def table(found: Agreement) -> str:
    rows: list[tuple[str, str, str, str]] = []

    def add(name: str, value: Callable[[Side], float], form: str, relative: bool = False) -> None:
        here, there = value(found.live), value(found.virtual)
        apart = f"{(there - here) / here:+.1%}" if relative and here else format(there - here, "+" + form)
        rows.append((name, format(here, form), format(there, form), apart))

    def dispatched_for(reason: ChoiceReason, side: Side) -> float:
        return side.reasons[reason]

    add("answered", lambda side: side.answered, "d")
    add("TTFT P50 s", lambda side: side.ttft_p50_s, ".3f", relative=True)
    add("TTFT P90 s", lambda side: side.ttft_p90_s, ".3f", relative=True)
    add("TTFT P99 s", lambda side: side.ttft_p99_s, ".3f", relative=True)
    add("hit rate", lambda side: side.hit_rate, ".2%")
    for reason in ChoiceReason:
        if found.live.reasons[reason] or found.virtual.reasons[reason]:
            add(f"{reason.value}", partial(dispatched_for, reason), "d")
    lines = ["|  | live | virtual | apart |", "|---|---|---|---|", *("| " + " | ".join(row) + " |" for row in rows)]
    lines.append(f"\nsame instance {found.same_instance:.1%}, same reason {found.same_reason:.1%}")
    return "\n".join(lines)


def furthest_apart(live: Mapping[str, Decided], virtual: Mapping[str, Decided]) -> str:
    """The first request that went elsewhere, and those whose first tokens are furthest apart."""
    pairs = [(number, one, virtual[request_id]) for number, (request_id, one) in enumerate(live.items(), start=1)]
    start_s = pairs[0][1].arrived_s
    apart = [pair for pair in pairs if pair[1].instance_id != pair[2].instance_id]
    split = min(apart, key=lambda pair: min(pair[1].dispatched_s, pair[2].dispatched_s), default=None)
    late = sorted(pairs, key=lambda pair: abs(pair[1].ttft_s - pair[2].ttft_s), reverse=True)[:SHOWN]
    lines = ["the first that went elsewhere:", _pair(*split, start_s)] if split else ["none went elsewhere"]
    lines += ["first tokens furthest apart:", *(_pair(*pair, start_s) for pair in late)]
    return "\n".join(lines)


def _pair(number: int, here: Decided, there: Decided, start_s: float) -> str:
    return (
        f"  request {number} at {here.arrived_s - start_s:.2f} s, {here.prompt_tokens} tokens:"
        f" live {_one(here)}; virtual {_one(there)}"
    )


def _one(one: Decided) -> str:
    queued_s = one.dispatched_s - one.arrived_s
    return (
        f"{one.instance_id} {one.reason}, {one.cached_tokens} cached, {queued_s:.3f} s queued, TTFT {one.ttft_s:.3f} s"
    )
