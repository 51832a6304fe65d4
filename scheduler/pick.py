"""SLO-aware choice between the candidates of a key (arXiv 2602.06502, section 3.3)."""

from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate


def leaving_gain_s(here_s: float, there_s: float, extra_prefill_s: float, recompute_price: float) -> float:
    """What running there instead of here saves: the difference in TTFT, less the price of what must be computed there
    in addition. All in seconds."""
    return here_s - there_s - recompute_price * max(0.0, extra_prefill_s)


def pick_instance(
    estimates: list[TtftEstimate], limit_s: float | None, recompute_price: float
) -> tuple[TtftEstimate, ChoiceReason]:
    """Keep the prefix where it is cached while that meets the limit; beyond it, leave if that gains.

    estimates: one or two, the first ring's candidate first; which that is depends on the key alone, so it may break
    ties without favouring an instance. limit_s: seconds to the first token; None keeps the prefix where it is cached.
    """
    if len(estimates) == 1:
        return estimates[0], ChoiceReason.ONLY_ONE
    first, second = estimates
    soonest = second if (second.total_s, second.running) < (first.total_s, first.running) else first
    if first.cached_tokens == second.cached_tokens:
        return soonest, ChoiceReason.BALANCED
    warm = first if first.cached_tokens > second.cached_tokens else second
    if limit_s is None or warm is soonest or warm.total_s <= limit_s:
        return warm, ChoiceReason.WARM
    extra_prefill_s = soonest.prefill_s - warm.prefill_s
    if leaving_gain_s(warm.total_s, soonest.total_s, extra_prefill_s, recompute_price) <= 0:
        return warm, ChoiceReason.WARM
    return soonest, ChoiceReason.SWITCHED
