"""Choice between the candidates of a key by what each would cost (arXiv 2602.06502, section 3.3)."""

from math import inf
from typing import NamedTuple

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.ttft_estimate import TtftEstimate

# Each step that computes a prompt holds up all who decode there: so much of its prefill counts for each of them. Less
# than all of it, since who waits for a first token sees nothing else, and who reads an answer has something to read.
STALL_SHARE = 0.5
TIE_S = 0.02  # a step or two of the engine: costs that differ by less are equal
# Of the objective for the first token: so much later a request may run where its session was. At the defaults it is
# 0.1 s, what it takes to compute the rest of the last turn that is no whole block: cached there, and in no book.
SESSION_SHARE = 0.02


class SessionHome(NamedTuple):
    """instance_id: where the session's last request ran. noise_s: so much more it may cost there than at the best."""

    instance_id: str
    noise_s: float


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
    session_home: SessionHome | None = None,
) -> tuple[TtftEstimate, ChoiceReason]:
    """Go where the time to the first token, the price of what is computed again, and that of decoding among others are
    least together. To copy a hot prefix costs nothing: so many share it (prefix_key.py) that a copy pays for itself.

    estimates: one or more, the key's own candidates first; which these are depends on the key alone, so that order may
    break ties without favouring an instance. slo_aware: False keeps the prefix where it is cached at any cost.
    decode_price_s: seconds, for each request that runs at the instance; None: who decodes where does not count.
    answer_tokens: how long answers are; where
    its tokens would come later than the objective there, it loses that much for each. session_home: is preferred to
    whoever is best where it holds no less of the prompt, and costs and takes no more but for noise; one of estimates.
    """
    if len(estimates) == 1:
        return estimates[0], ChoiceReason.ONLY_ONE
    costs: list[float] = []
    most = least = estimates[0].held_tokens
    for e in estimates:
        cost_s = e.total_s - e.shared_s
        if decode_price_s is not None:
            cost_s += e.running * (decode_price_s + STALL_SHARE * (e.prefill_s - e.shared_s)) + answer_tokens * e.lag_s
            if e.tpot_slo_s and e.tpot_s > e.tpot_slo_s:
                cost_s += answer_tokens * (e.tpot_s - e.tpot_slo_s)
        costs.append(cost_s)
        if e.held_tokens > most:
            most = e.held_tokens
        elif e.held_tokens < least:
            least = e.held_tokens
    best, best_s = warm, _ = _cheapest(estimates, costs, most)
    if most == least:
        reason = ChoiceReason.BALANCED
    elif not slo_aware:
        reason = ChoiceReason.WARM
    else:
        own_s = warm.prefill_s - warm.shared_s
        for position, e in enumerate(estimates):
            cost_s = costs[position]
            if cost_s < best_s:
                cost_s += recompute_price * max(0.0, e.prefill_s - e.shared_s - own_s)
                if cost_s < best_s:
                    best, best_s = e, cost_s
        reason = ChoiceReason.WARM if best is warm else ChoiceReason.SWITCHED
    if session_home is not None and best.instance_id != session_home.instance_id:
        cost_there = {e.instance_id: (cost_s, e) for e, cost_s in zip(estimates, costs, strict=True)}
        home_s, home = cost_there[session_home.instance_id]
        limit_s = cost_there[best.instance_id][0] + session_home.noise_s
        # A hot prefix may be copied to it for nothing, but not where the first token would come later for that.
        in_time = home_s <= limit_s and home.total_s <= best.total_s + session_home.noise_s
        if in_time and home.held_tokens >= best.held_tokens:
            return home, ChoiceReason.SESSION
    return best, reason


def _cheapest(estimates: list[TtftEstimate], costs: list[float], held_tokens: int) -> tuple[TtftEstimate, float]:
    """Of those that hold so much, and whose costs are equal as far as estimates can tell, the one that runs least; of
    these, the first."""
    limit_s = inf
    for position, e in enumerate(estimates):
        if e.held_tokens == held_tokens:
            limit_s = min(limit_s, costs[position] + TIE_S)
    found = -1
    for position, e in enumerate(estimates):
        equal = e.held_tokens == held_tokens and costs[position] <= limit_s
        if equal and (found < 0 or e.running < estimates[found].running):
            found = position
    return estimates[found], costs[found]
