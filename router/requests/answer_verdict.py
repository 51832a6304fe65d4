"""Whether what an instance sends is the answer to a request."""

from enum import Enum, auto

from dualmap.router.http.upstream import SWITCHING_STATUS
from dualmap.scheduler.events import FailureCause

ENGINE_FAILED_STATUS = 500  # vLLM: its engine is dead, or it shuts down
NOT_FOUND_STATUS = 404
NO_ANSWERS = {
    ENGINE_FAILED_STATUS: FailureCause.ERROR,
    503: FailureCause.REFUSED,
    SWITCHING_STATUS: FailureCause.BROKEN,
}


class Verdict(Enum):
    ANSWER = auto()  # the client gets it
    RETRY = auto()  # the client gets nothing of it, so that another instance may answer
    FAILURE = auto()  # the client has some of it, and gets what precedes the failure


ANSWER, RETRY, FAILURE = Verdict  # a name is found five times as fast as the attribute of an enum


def answer_verdict(status: int, *, aborted: bool, begun: bool, last: bool, searches: bool = False) -> Verdict:
    """Judge an answer by what has come of it.

    aborted: the instance ended it by itself.
    begun: the client has been sent some of it.
    last: no other instance will be asked.
    searches: another instance may keep what the request goes on from.
    """
    if aborted:
        return FAILURE if begun else RETRY
    if searches and status == NOT_FOUND_STATUS and not (begun or last):
        return RETRY
    if begun or status not in NO_ANSWERS:
        return ANSWER
    return ANSWER if last and status == ENGINE_FAILED_STATUS else RETRY  # the client is told a last 500


def error_cause(status: int) -> FailureCause:
    """Name why an attempt failed whose answer began with an error of that status, of the server's."""
    return NO_ANSWERS.get(status, FailureCause.ERROR)


def failure_cause(status: int, *, aborted: bool) -> FailureCause:
    """Name why what came is no answer."""
    if aborted:
        return FailureCause.ABORTED
    return FailureCause.NOT_HERE if status == NOT_FOUND_STATUS else NO_ANSWERS[status]
