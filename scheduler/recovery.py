"""What becomes of an attempt whose instance failed it."""

from enum import StrEnum

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.events import FailureCause


class Fate(StrEnum):
    RETRY = "retry"  # elsewhere: the client has been sent nothing
    FAIL = "fail"  # the client has part of the answer, only this instance could give it, or it has waited: it is told
    GIVE_UP = "give_up"  # it failed on as many instances as may be tried


def decide_fate(attempt: Attempt, tokens_sent: int, cause: FailureCause, *, last: bool) -> Fate:
    """last: as many instances as may be tried have been. What an instance keeps that cannot be reached is gone with
    it."""
    if cause in (FailureCause.CONNECT, FailureCause.STALLED) and attempt.request.home is not None:
        return Fate.FAIL
    if attempt.started or tokens_sent > 0:
        return Fate.FAIL
    if last:
        return Fate.FAIL if cause is FailureCause.STALLED else Fate.GIVE_UP
    return Fate.RETRY
