"""Accept a request, or reject it with a reason and a Retry-After."""

from scheduler.commands import Reject, RejectReason
from scheduler.config import SchedulerConfig
from scheduler.instance_view import InstanceView

NO_INSTANCE_RETRY_S = 1.0  # about what it takes to notice that an instance is ready
MAX_RETRY_S = 60.0  # a client told to wait longer would rather be told by a person


def reject_no_instance(request_id: str) -> Reject:
    return Reject(request_id, RejectReason.NO_INSTANCE, NO_INSTANCE_RETRY_S)


def reject_if_full(request_id: str, in_flight: int, config: SchedulerConfig) -> Reject | None:
    """Guards the core's own memory, before a place is looked for."""
    if in_flight < config.max_in_flight:
        return None
    return Reject(request_id, RejectReason.QUEUE_FULL, MAX_RETRY_S)


def reject_if_queue_full(request_id: str, view: InstanceView, config: SchedulerConfig) -> Reject | None:
    """Guards the queue of the instance it was placed on."""
    if view.waiting_count < config.max_waiting:
        return None
    return Reject(request_id, RejectReason.QUEUE_FULL, _retry_after_s(view))


def reject_timed_out(request_id: str, view: InstanceView) -> Reject:
    return Reject(request_id, RejectReason.QUEUE_TIMEOUT, _retry_after_s(view))


def _retry_after_s(view: InstanceView) -> float:
    """Worth a retry once about half of what is ahead has been worked off."""
    return min(MAX_RETRY_S, max(1.0, view.backlog_s / 2))
