"""SLO-aware choice between the candidates of a key (arXiv 2602.06502, section 3.3)."""

from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate


def pick_instance(estimates: list[TtftEstimate], limit_s: float | None) -> tuple[TtftEstimate, ChoiceReason]:
    """Keep the prefix where it is cached while that meets the limit; else take the smaller estimate.

    estimates: one or two, the first ring's candidate first; which that is depends on the key alone, so it may break
    ties without favouring an instance. limit_s: None keeps the prefix where it is cached at any price.
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
    return soonest, ChoiceReason.SWITCHED
