"""Whether what an instance sends is the answer to a request."""

import re
from enum import Enum, auto

from dualmap.router.http.upstream import SWITCHING_STATUS
from dualmap.scheduler.events import FailureCause

ENGINE_FAILED_STATUS = 500  # vLLM: its engine is dead, or it shuts down
BAD_REQUEST_STATUS = 400
NOT_UNDERSTOOD = (BAD_REQUEST_STATUS, 422)  # the latter of servers that take no fields but their own
TOO_LONG_WORDS = (b"maximum context length", b"max_model_len")  # vLLM's, in all that it says of it
UNAUTHORIZED_STATUS = 401
NOT_FOUND_STATUS = 404
NO_MODEL_WORDS = re.compile(rb"The model [`'][^`']+[`'] does not exist")  # vLLM's and OpenAI's
OVERLOADED_STATUS = 429  # vLLM has none: a proxy before it limits what it gets, or another engine is full
NO_ANSWERS = {
    ENGINE_FAILED_STATUS: FailureCause.ERROR,
    408: FailureCause.BROKEN,  # a proxy took its idle connection for a client's that is slow: requests come whole
    OVERLOADED_STATUS: FailureCause.REFUSED,
    502: FailureCause.BROKEN,  # a proxy before the instance does not reach it
    503: FailureCause.REFUSED,
    504: FailureCause.BROKEN,  # a proxy before the instance waits no longer
    SWITCHING_STATUS: FailureCause.BROKEN,
}
_FINISHED = re.compile(rb'"finish_reason": ?"')
_DONE = re.compile(rb"data: ?\[DONE\]\r?\n")
TOLD_AT_LAST = (ENGINE_FAILED_STATUS, OVERLOADED_STATUS)
REDIRECTS = range(300, 400)
CLIENT_ERRORS = range(400, 500)


class Verdict(Enum):
    ANSWER = auto()  # the client gets it
    RETRY = auto()  # the client gets nothing of it, so that another instance may answer
    FAILURE = auto()  # the client has some of it, and gets what precedes the failure
    REPLACED = auto()  # the client gets an error of its status that is none of a proxy's pages


ANSWER, RETRY, FAILURE, REPLACED = Verdict  # a name is found five times as fast as the attribute of an enum


def answer_verdict(
    status: int, *, aborted: bool, begun: bool, last: bool, html: bool = False, searches: bool = False
) -> Verdict:
    """Judge an answer by what has come of it.

    aborted: the instance ended it by itself.
    begun: the client has been sent some of it.
    last: no other instance will be asked.
    html: it is a page, which no instance gives, but a proxy before it.
    searches: another instance may keep what the request goes on from.
    """
    if aborted:
        return FAILURE if begun else RETRY
    if begun:
        return ANSWER
    if searches and status == NOT_FOUND_STATUS and not last:
        return RETRY
    if html and status not in REDIRECTS:
        return REPLACED if last and status in CLIENT_ERRORS else RETRY
    if status not in NO_ANSWERS:
        return ANSWER
    return ANSWER if last and status in TOLD_AT_LAST else RETRY


def says_too_long(status: int, body: bytes) -> bool:
    """Whether an instance refuses a prompt, or a prompt and the answer asked for, as longer than it takes."""
    return status == BAD_REQUEST_STATUS and any(words in body for words in TOO_LONG_WORDS)


def says_no_model(status: int, body: bytes) -> bool:
    """Whether an instance refuses a request since it does not serve the model: it did when it last was asked."""
    return status == NOT_FOUND_STATUS and NO_MODEL_WORDS.search(body) is not None


def names_ids(status: int, body: bytes) -> bool:
    """Whether an instance refuses a request since it is asked for token ids."""
    return status in NOT_UNDERSTOOD and b"return_token_ids" in body


def names_params(status: int, body: bytes) -> bool:
    """Whether an instance refuses a request for what it is told of the transfer of its prompt."""
    return status in NOT_UNDERSTOOD and b"kv_transfer_params" in body


def has_end(tail: bytes) -> bool:
    """Whether a stream of chunks says that it is over. A proxy, or a server that ends its answers by closing, may end
    one in midst of it as if it were whole."""
    return _DONE.search(tail) is not None or _FINISHED.search(tail) is not None


def lacks_done(tail: bytes) -> bool:
    """Whether a stream that has its end lacks the last event."""
    return _DONE.search(tail) is None


def error_cause(status: int) -> FailureCause:
    """Name why an attempt failed whose answer began with an error of that status, of the server's."""
    return NO_ANSWERS.get(status, FailureCause.ERROR)


def failure_cause(status: int, *, aborted: bool, searches: bool = False) -> FailureCause:
    """Name why what came is no answer; see answer_verdict."""
    if aborted:
        return FailureCause.ABORTED
    if searches and status == NOT_FOUND_STATUS:
        return FailureCause.NOT_HERE
    return NO_ANSWERS.get(status, FailureCause.BROKEN)
