"""Whether what an instance sends is the answer to a request."""

from enum import Enum, auto
from typing import NamedTuple

from dualmap.router.http.upstream import SWITCHING_STATUS
from dualmap.scheduler.events import FailureCause

ENGINE_FAILED_STATUS = 500  # vLLM: its engine is dead, or it shuts down
NO_ANSWERS = {
    ENGINE_FAILED_STATUS: FailureCause.ERROR,
    503: FailureCause.REFUSED,
    SWITCHING_STATUS: FailureCause.BROKEN,
}


class Kind(Enum):
    ANSWER = auto()  # the client gets it
    RETRY = auto()  # the client gets nothing of it, so that another instance may answer
    FAILURE = auto()  # the client has got some of it, and gets what precedes the failure


class Verdict(NamedTuple):
    """cause: why it is no answer."""

    kind: Kind
    cause: FailureCause | None


ANSWER = Verdict(Kind.ANSWER, None)


def answer_verdict(status: int, *, aborted: bool, begun: bool, last: bool) -> Verdict:
    """Judge an answer by what has come of it.

    aborted: the instance ended it by itself.
    begun: the client has been sent some of it.
    last: no other instance will be asked.
    """
    if aborted:
        return Verdict(Kind.FAILURE if begun else Kind.RETRY, FailureCause.ABORTED)
    if begun or (last and status == ENGINE_FAILED_STATUS):  # which is what the client is told
        return ANSWER
    cause = NO_ANSWERS.get(status)
    return ANSWER if cause is None else Verdict(Kind.RETRY, cause)
