"""A move that was planned on a snapshot, checked again on the books of this moment."""

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.pick import leaving_gain_s
from dualmap.scheduler.ttft_estimate import TtftEstimate


def recheck_move(
    attempt: Attempt, source: InstanceView, target: InstanceView, recompute_price: float, config: SchedulerConfig
) -> TtftEstimate | None:
    """For the waiting request at its new place; None if it cannot move there, or gains too little by it."""
    if attempt.moves >= config.max_moves_per_request or target.instance_id in attempt.tried:
        return None
    if target is source or target.draining or target.waiting_count >= config.max_waiting:
        return None
    if not target.can_run(attempt.request):
        return None
    if not target.room.for_tokens(attempt.request.prompt_tokens, attempt.tpot_slo_s):
        return None
    ahead = source.prefilling_tokens + source.waiting.tokens_ahead(attempt) + attempt.work_tokens
    estimate = target.estimate_ttft(attempt.request)
    extra_s = target.own_s(attempt, estimate.work_tokens) - source.own_s(attempt, attempt.work_tokens)
    here_s = ahead * source.seconds_per_token
    gain_s = leaving_gain_s(here_s, estimate.total_s, extra_s, recompute_price)
    return estimate if gain_s >= config.min_move_gain_s else None
