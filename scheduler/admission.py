"""Accept a request, or reject one with a reason and a Retry-After: itself, or the least important that waits."""

from collections.abc import Iterable

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.request import Request
from dualmap.scheduler.ttft_estimate import TtftEstimate

NO_INSTANCE_RETRY_S = 1.0  # about what it takes to notice that an instance is ready
MAX_RETRY_S = 60.0  # a client told to wait longer would rather be told by a person


def reject_no_instance(request_id: str) -> Reject:
    return Reject(request_id, RejectReason.NO_INSTANCE, NO_INSTANCE_RETRY_S)


def reject_held_too_long(request_id: str) -> Reject:
    """For a request that waited for an instance to come until its client's time-out."""
    return Reject(request_id, RejectReason.QUEUE_TIMEOUT, NO_INSTANCE_RETRY_S)


def reject_exhausted(request_id: str) -> Reject:
    return Reject(request_id, RejectReason.ATTEMPTS_EXHAUSTED, NO_INSTANCE_RETRY_S)


def reject_queue_full(request: Request, view: InstanceView) -> Reject:
    return Reject(request.id, RejectReason.QUEUE_FULL, _retry_after_s(view, request))


def reject_too_many(request_id: str, mean_backlog_s: float) -> Reject:
    """For a request that no place was looked for."""
    return Reject(request_id, RejectReason.QUEUE_FULL, _half_of_s(mean_backlog_s))


def reject_timed_out(request: Request, view: InstanceView, reason: RejectReason) -> Reject:
    return Reject(request.id, reason, _retry_after_s(view, request))


def queue_is_full(view: InstanceView, config: SchedulerConfig) -> bool:
    return view.waiting_count >= config.max_waiting


def place_with_room(
    request: Request, candidates: Iterable[InstanceView], config: SchedulerConfig
) -> TtftEstimate | None:
    """Where it would start soonest of the candidates whose queues take one more."""
    estimates = [view.estimate_ttft(request) for view in candidates if not queue_is_full(view, config)]
    return min(estimates, key=lambda e: (e.total_s, e.instance_id), default=None)


def least_important(request: Request, views: Iterable[InstanceView]) -> Attempt | None:
    """Of those that wait for any instance, who makes room for the request; None: itself."""
    queues = [
        (view.waiting.least_priority, view.waiting_tokens, view.instance_id, view) for view in views if view.waiting
    ]
    if not queues:
        return None
    _, _, _, view = max(queues)
    return view.waiting.least_important(request, view.work_there(request), False)


def _retry_after_s(view: InstanceView, request: Request) -> float:
    return _half_of_s(view.ahead_tokens(request) * view.seconds_per_token)


def _half_of_s(backlog_s: float) -> float:
    """Worth a retry once about half of what is ahead has been worked off."""
    return min(MAX_RETRY_S, max(1.0, backlog_s / 2))
