"""Who wants the answer to a request that goes to an instance, as the connection that fetches it sees him."""

from typing import Protocol

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.mypyc_attr import mypyc_attr
from dualmap.scheduler.events import FailureCause


class Upstream(Protocol):
    """The connection that fetches the answer, open or being opened."""

    def abort(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class AnswerSink:
    """A class, not a Protocol: each chunk of an answer is a call of it, which machine code makes ten times as fast.

    upstream: the connection at hand, set by the connection itself. body: of the request, as the instance gets it."""

    __slots__ = ("body", "upstream")
    upstream: Upstream | None
    body: bytes

    def head_for(self, to: InstanceHead) -> bytes:
        """Return the head of the request as that instance gets it."""
        raise NotImplementedError

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        """Take some of the answer's body, which came in so many pieces; its last, which may be empty, if complete.
        Whoever does not want the answer aborts `upstream`."""
        raise NotImplementedError

    def answer_complete(self, head: AnswerHead) -> None:
        """All of the answer has been relayed, and the connection is no longer this sink's."""
        raise NotImplementedError

    def attempt_failed(self, cause: FailureCause) -> None:
        """The connection is gone before the answer was complete."""
        raise NotImplementedError
