"""One attempt of an exchange at an instance: takes the answer, judges it, and passes it on to the client."""

from collections.abc import Callable
from typing import Protocol

from dualmap.router.apis.state_ids import StateSeeker
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import Upstream
from dualmap.router.requests.answer_events import AnswerEvents
from dualmap.router.requests.answer_plain import MAX_HELD_BYTES, PASSED, HeldAnswer
from dualmap.router.requests.answer_verdict import ANSWER, FAILURE, answer_verdict, failure_cause
from dualmap.router.requests.answer_writer import AnswerWriter
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.phase import ANSWERING, Phase
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause

FIRST_REDIRECT_STATUS = 300


class Answer(Protocol):
    """What of an answer's body can go to the client, and when. failed: the instance ended it by itself. usage_event:
    see AnswerEvents."""

    @property
    def failed(self) -> bool: ...

    @property
    def usage_event(self) -> bytes: ...

    def feed(self, body: bytes, complete: bool) -> bytes: ...


class Carrier(Protocol):
    """Whose attempt it is, and who is told what becomes of it: its exchange."""

    phase: Phase
    arrived: Arrived
    asked: Asked

    def answer_begun(self, run: "Running", has_body: bool) -> None: ...

    def state_made(self, run: "Running", state_id: str) -> None: ...

    def finished(self, run: "Running", status: int) -> None: ...

    def attempt_failed(self, run: "Running", cause: FailureCause) -> None: ...


class Running:
    """See Run and AnswerSink."""

    __slots__ = (
        "_answer",
        "_carrier",
        "_instance_lines",
        "_quiet_since",
        "_swept_pieces",
        "_writer",
        "body",
        "dispatch",
        "event_stream",
        "first_byte_at",
        "pieces",
        "upstream",
    )

    def __init__(
        self, carrier: Carrier, writer: AnswerWriter, dispatch: Dispatch, instance_lines: bytes, now: float
    ) -> None:
        """instance_lines: what the head of the answer says of the instance, up to how long the request has waited."""
        self.dispatch = dispatch
        self.body = carrier.asked.prompt.body
        self.upstream: Upstream | None = None
        self.pieces = 0
        self.event_stream = False
        self.first_byte_at = 0.0
        self._carrier = carrier
        self._writer = writer
        self._instance_lines = instance_lines
        self._answer: Answer | None = None
        self._quiet_since = now
        self._swept_pieces = 0

    @property
    def sent_pieces(self) -> int:
        """0 while all of the answer is held back."""
        return self.pieces if self._carrier.phase is ANSWERING else 0

    def usage(self) -> Usage:
        """What the answer's last bytes say of `usage`."""
        hidden = b"" if self._answer is None else self._answer.usage_event
        return peek_usage(hidden or self._writer.tail)

    def drop(self) -> None:
        """Close the connection to the instance at once."""
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    def is_stalled(self, blocked: bool, now: float, first_byte_timeout_s: float, stall_timeout_s: float) -> bool:
        """Whether the instance has sent nothing for too long; called periodically. blocked: nothing is read of it."""
        if self.upstream is None or blocked or self.pieces != self._swept_pieces:
            self._swept_pieces = self.pieces
            self._quiet_since = now
            return False
        return now - self._quiet_since > (stall_timeout_s if self.pieces else first_byte_timeout_s)

    # What the connection to the instance calls (AnswerSink).

    def head_for(self, host_line: bytes) -> bytes:
        arrived = self._carrier.arrived
        http = arrived.http
        return b"%b %b%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            http.method.encode(),
            http.target,
            host_line,
            b"".join(http.forwarded),
            arrived.request_id,
            len(self.body),
        )

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        answer = self._answer
        if answer is None:
            asked = self._carrier.asked
            last = self.dispatch.last and not asked.other_cores
            searches = asked.request.stateful and asked.request.searches
            verdict = answer_verdict(head.status, aborted=False, begun=False, last=last, searches=searches)
            if verdict is not ANSWER:
                self._give_up(failure_cause(head.status, aborted=False))
                return
            answer = self._answer = self._read_as(head, asked)
        self.pieces += pieces
        body = answer.feed(body, complete)
        begun = self._carrier.phase is ANSWERING
        if answer.failed:
            verdict = answer_verdict(head.status, aborted=True, begun=begun, last=self.dispatch.last)
            if body and verdict is FAILURE:
                self._writer.go_on(body, False)
            self._give_up(failure_cause(head.status, aborted=True))
        elif body or complete:
            if begun:
                self._writer.go_on(body, complete)
            else:
                self._begin(head, body, complete)

    def answer_complete(self, head: AnswerHead) -> None:
        self.upstream = None
        self._carrier.finished(self, head.status)

    def attempt_failed(self, cause: FailureCause) -> None:
        self.upstream = None
        self._carrier.attempt_failed(self, cause)

    def _read_as(self, head: AnswerHead, asked: Asked) -> Answer:
        answer = _read_as(head, asked.prompt.hides_usage)
        if head.status < FIRST_REDIRECT_STATUS:
            if asked.request.stateful and asked.request.searches:
                self._state_made(asked.prompt.read.state)  # found: else it would have answered 404
            if asked.prompt.read.stored and self._carrier.arrived.api.makes_state:
                return MakingAnswer(answer, head.event_stream, self._state_made)
        return answer

    def _state_made(self, state_id: str) -> None:
        self._carrier.state_made(self, state_id)

    def _give_up(self, cause: FailureCause) -> None:
        self.drop()
        self._carrier.attempt_failed(self, cause)

    def _begin(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        """Not before there is some of the body, so that until then another instance can try."""
        self.event_stream = head.event_stream
        carrier, queue_ms = self._carrier, self.dispatch.queued_s * 1000.0
        lines = b"%b%d\r\n%b" % (self._instance_lines, queue_ms, carrier.asked.answer_lines)
        self._writer.begin(head, lines, body, complete)
        carrier.answer_begun(self, bool(body))


class MakingAnswer:
    """An answer that says, before it is relayed, which state it makes."""

    __slots__ = ("_answer", "_made", "_seeker")

    def __init__(self, answer: Answer, event_stream: bool, made: Callable[[str], None]) -> None:
        self._answer = answer
        self._seeker = StateSeeker(event_stream)
        self._made = made

    @property
    def failed(self) -> bool:
        return self._answer.failed

    @property
    def usage_event(self) -> bytes:
        return self._answer.usage_event

    def feed(self, body: bytes, complete: bool) -> bytes:
        body = self._answer.feed(body, complete)
        if self._seeker.seeks and body and (state_id := self._seeker.feed(body, complete)):
            self._made(state_id)
        return body


def _read_as(head: AnswerHead, hides_usage: bool) -> Answer:
    if head.event_stream:
        return AnswerEvents(hides_usage)
    if head.content_length is not None and head.content_length <= MAX_HELD_BYTES:
        return HeldAnswer()
    return PASSED
