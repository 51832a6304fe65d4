"""What the core counts of itself."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class SchedulerStats:
    """Counters since the start."""

    late_events: int = 0  # for an attempt, request or incarnation that is over
    retries: int = 0  # attempts after the first
    moves_applied: int = 0
    requests_taken: int = 0  # by instances that would have idled
    moves_refused: int = 0  # not worth it any more, or no longer possible, when the plan came back
    arrived: int = 0  # requests placed for the first time
    arrived_work_tokens: int = 0  # their prefill work, where they were placed
    arrived_legs: int = 0  # of these requests, those that began with a prefill leg
    arrived_leg_tokens: int = 0  # of that prefill work, what prefill legs are
    legs_kept: int = 0  # prefill legs that left their first token within the objective
    legs_missed: int = 0  # later ones, and those that left none: rejected, or failed for good
    slo_kept: int = 0  # first tokens within the objective
    tpot_kept: int = 0  # answers whose tokens came within the objective, of those that have one
    tpot_missed: int = 0
    tpot_used: float = 0.0  # of these answers, the times per token against their objectives, added up
    slo_missed: int = 0  # later ones, and requests that never had one: rejected, or failed
    missed_by_legs: int = 0  # of these, what was late when its prefill leg ended, or ended with that
