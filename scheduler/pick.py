"""SLO-aware choice between the candidates of a key (arXiv 2602.06502, section 3.3)."""

from scheduler.config import SchedulerConfig
from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate

BUSY_BACKLOG_S = 1.0  # mean backlog from which a cluster counts as busy
WARM_SHARE = 0.75  # of the other's prefill time: saving less, a cached prefix is no reason to stay where others wait


def leaving_gain_s(here_s: float, there_s: float, extra_prefill_s: float, recompute_price: float) -> float:
    """What running there instead of here saves: the difference in TTFT, less the price of what must be computed there
    in addition. All in seconds."""
    return here_s - there_s - recompute_price * max(0.0, extra_prefill_s)


def recompute_price(mean_backlog_s: float, config: SchedulerConfig) -> float:
    """Seconds of waiting that a second of recomputation must save. That second delays all who wait at the instance, and
    there are the more of them, the more the cluster has to do."""
    idle, busy = config.recompute_price_idle, config.recompute_price_busy
    return min(busy, idle + (busy - idle) * mean_backlog_s / BUSY_BACKLOG_S)


def pick_instance(
    estimates: list[TtftEstimate], keep_s: float | None, recompute_price: float, decode_price_s: float
) -> tuple[TtftEstimate, ChoiceReason]:
    """Keep the prefix where it is cached while that gives the first token within keep_s; beyond it, go where the time
    to the first token, the price of what is computed again, and that of decoding among others are least together.

    estimates: one or more, the key's own candidates first; which these are depends on the key alone, so that order may
    break ties without favouring an instance. keep_s: None keeps the prefix where it is cached at any cost.
    decode_price_s: seconds, for each request that runs at the instance.
    """
    if len(estimates) == 1:
        return estimates[0], ChoiceReason.ONLY_ONE
    warm = soonest = estimates[0]
    soonest_s = warm_s = warm.total_s + decode_price_s * warm.running
    cold = True  # nobody holds more of the prefix than another
    for estimate in estimates[1:]:
        end_s = estimate.total_s + decode_price_s * estimate.running
        sooner = (end_s, estimate.running)
        if estimate.cached_tokens != warm.cached_tokens:
            cold = False
        if estimate.cached_tokens > warm.cached_tokens or (
            estimate.cached_tokens == warm.cached_tokens and sooner < (warm_s, warm.running)
        ):
            warm, warm_s = estimate, end_s
        if sooner < (soonest_s, soonest.running):
            soonest, soonest_s = estimate, end_s
    if cold:
        return soonest, ChoiceReason.BALANCED
    if (
        keep_s is None
        or warm is soonest
        or (warm.total_s <= keep_s and warm.prefill_s <= WARM_SHARE * soonest.prefill_s)
    ):
        return warm, ChoiceReason.WARM
    best, best_s = warm, warm_s
    for estimate in estimates:
        extra_s = max(0.0, estimate.prefill_s - warm.prefill_s)
        cost_s = estimate.total_s + decode_price_s * estimate.running + recompute_price * extra_s
        if cost_s < best_s:
            best, best_s = estimate, cost_s
    return best, ChoiceReason.WARM if best is warm else ChoiceReason.SWITCHED
