"""Choice between the candidates of a key by what each would cost (arXiv 2602.06502, section 3.3)."""

from collections.abc import Iterable

from scheduler.config import SchedulerConfig
from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate

# Each step that computes a prompt holds up all who decode there: so much of its prefill counts for each of them. Less
# than all of it, since who waits for a first token sees nothing else, and who reads an answer has something to read.
STALL_SHARE = 0.5
TIE_S = 0.02  # a step or two of the engine: costs that differ by less are equal


def leaving_gain_s(here_s: float, there_s: float, extra_prefill_s: float, recompute_price: float) -> float:
    """What running there instead of here saves: the difference in TTFT, less the price of what must be computed there
    in addition. All in seconds."""
    return here_s - there_s - recompute_price * max(0.0, extra_prefill_s)


def recompute_price(busy: float, config: SchedulerConfig) -> float:
    """Seconds of waiting that a second of recomputation must save. That second delays all who wait at the instance, and
    there are the more of them, the more the cluster has to do. busy: LoadOrder.busy, 0 to 1."""
    return config.recompute_price_idle + (config.recompute_price_busy - config.recompute_price_idle) * busy


def pick_instance(
    estimates: list[TtftEstimate],
    slo_aware: bool,
    recompute_price: float,
    decode_price_s: float | None,
    answer_tokens: float = 0.0,
) -> tuple[TtftEstimate, ChoiceReason]:
    """Go where the time to the first token, the price of what is computed again, and that of decoding among others are
    least together. To copy a hot prefix costs nothing: so many share it (prefix_key.py) that a copy pays for itself.

    estimates: one or more, the key's own candidates first; which these are depends on the key alone, so that order may
    break ties without favouring an instance. slo_aware: False keeps the prefix where it is cached at any cost.
    decode_price_s: seconds, for each request that runs at the instance; None: who decodes where does not count.
    answer_tokens: how long answers are; where
    its tokens would come later than the objective there, it loses that much for each.
    """
    if len(estimates) == 1:
        return estimates[0], ChoiceReason.ONLY_ONE
    costs = [e.total_s - e.shared_s + _decoding_s(e, decode_price_s, answer_tokens) for e in estimates]
    held_tokens = max(e.held_tokens for e in estimates)
    warm, warm_s = _cheapest(
        (e, cost_s) for e, cost_s in zip(estimates, costs, strict=True) if e.held_tokens == held_tokens
    )
    if min(e.held_tokens for e in estimates) == held_tokens:
        return warm, ChoiceReason.BALANCED
    if not slo_aware:
        return warm, ChoiceReason.WARM
    own_s = warm.prefill_s - warm.shared_s
    best, best_s = warm, warm_s
    for e, cost_s in zip(estimates, costs, strict=True):
        cost_s += recompute_price * max(0.0, e.prefill_s - e.shared_s - own_s)
        if cost_s < best_s:
            best, best_s = e, cost_s
    return best, ChoiceReason.WARM if best is warm else ChoiceReason.SWITCHED


def _decoding_s(estimate: TtftEstimate, decode_price_s: float | None, answer_tokens: float) -> float:
    """What it costs to decode there, of this request and of those that it holds up."""
    if decode_price_s is None:
        return 0.0
    cost_s = estimate.running * (decode_price_s + STALL_SHARE * (estimate.prefill_s - estimate.shared_s))
    if estimate.tpot_slo_s:
        cost_s += answer_tokens * max(0.0, estimate.tpot_s - estimate.tpot_slo_s)
    return cost_s


def _cheapest(priced: Iterable[tuple[TtftEstimate, float]]) -> tuple[TtftEstimate, float]:
    """Of those whose costs are equal, as far as estimates can tell, the one that runs least; of these, the first."""
    priced = list(priced)
    limit_s = min(cost_s for _, cost_s in priced) + TIE_S
    return min((each for each in priced if each[1] <= limit_s), key=lambda each: each[0].running)
