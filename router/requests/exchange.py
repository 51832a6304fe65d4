"""One request's life in the gateway: from the parsed request, over its attempts, to the last byte of its answer."""

from typing import Protocol

from dualmap.router.access.access import Grant
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import Upstream
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError, error_events, error_response, failed
from dualmap.router.http.upstream import SWITCHING_STATUS
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.journal.writer import Core
from dualmap.router.requests.answer_events import AnswerEvents
from dualmap.router.requests.answer_plain import MAX_HELD_BYTES, PASSED, HeldAnswer
from dualmap.router.requests.driven import DrivenOwner
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request

LAST_CHUNK = b"0\r\n\r\n"
FAILED_STATUS = 500  # vLLM: its engine is dead, or it shuts down
NO_ANSWERS = {
    FAILED_STATUS: FailureCause.ERROR,
    503: FailureCause.REFUSED,
    SWITCHING_STATUS: FailureCause.BROKEN,
}


class Answer(Protocol):
    """What of an answer's body can go to the client, and when. failed: the instance ended it by itself."""

    @property
    def failed(self) -> bool: ...

    def feed(self, body: bytes, complete: bool) -> bytes: ...


class Exchange:
    """See Driven. pieces: of the answer's body as the instance cut it."""

    __slots__ = (
        "_answer",
        "_before_last",
        "_chunked",
        "_last",
        "_quiet_since",
        "_swept_pieces",
        "_write",
        "answer_begun",
        "answer_lines",
        "arrived_at",
        "asked",
        "body",
        "client",
        "core",
        "dispatch",
        "event_stream",
        "first_byte_at",
        "grant",
        "hides_usage",
        "id",
        "model",
        "owner",
        "pieces",
        "pool",
        "prompt_bytes",
        "prompt_is_token_ids",
        "prompt_tokens",
        "request",
        "request_id",
        "upstream",
    )

    def __init__(
        self,
        owner: DrivenOwner,
        exchange_id: str,
        client: ClientConnection,
        request: HttpRequest,
        body: bytes,
        arrived_at: float,
        grant: Grant | None,
    ) -> None:
        self.owner = owner
        self.id = exchange_id
        self.client = client
        self.request = request
        self.request_id = request.client_request_id or exchange_id.encode()
        self.body = body
        self.grant = grant
        self.answer_lines = b""
        self.model = ""
        self.asked: Request | None = None
        self.core: Core  # of the pool that serves it; set before any event
        self.prompt_bytes = 0
        self.prompt_tokens = 0
        self.prompt_is_token_ids = False
        self.arrived_at = arrived_at
        self.first_byte_at = 0.0
        self.dispatch: Dispatch | None = None
        self.pool: UpstreamPool | None = None
        self.upstream: Upstream | None = None
        self.hides_usage = False
        self.answer_begun = False
        self.pieces = 0
        self._answer: Answer = PASSED
        self._write = client.transport.write
        self._chunked = False
        self.event_stream = False
        self._last = b""
        self._before_last = b""
        self._quiet_since = arrived_at
        self._swept_pieces = 0

    # Attempts.

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None:
        self.dispatch = dispatch
        self.pool = pool
        self.pieces = 0
        self._quiet_since = now
        pool.run(self)

    def head_for(self, host_line: bytes) -> bytes:
        """The head of the request as the instance gets it."""
        request = self.request
        return b"%b %b%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            request.method.encode(),
            request.target,
            host_line,
            b"".join(request.forwarded),
            self.request_id,
            len(self.body),
        )

    def drop_upstream(self) -> None:
        """Close the attempt's connection to the instance at once."""
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    def is_stalled(self, now: float, first_byte_timeout_s: float, stall_timeout_s: float) -> bool:
        """Whether its instance has sent nothing for too long; called periodically."""
        if self.upstream is None or self.client.write_paused or self.pieces != self._swept_pieces:
            self._swept_pieces = self.pieces
            self._quiet_since = now
            return False
        return now - self._quiet_since > (stall_timeout_s if self.pieces else first_byte_timeout_s)

    # The answer, as the upstream connection brings it.

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        """See AnswerSink."""
        if not self.answer_begun and (cause := self._cause_of(head.status)) is not None:
            self.drop_upstream()
            self.owner.attempt_failed(self, cause)
            return
        if not self.pieces:
            self._answer = _read_as(head, self.hides_usage)
        self.pieces += pieces
        answer = self._answer
        body = answer.feed(body, complete)
        if answer.failed:
            if body and self.answer_begun:
                self._send(body, head, False)
            self.drop_upstream()
            self.owner.attempt_failed(self, FailureCause.ABORTED)
        elif body or complete:
            self._send(body, head, complete)

    def answer_complete(self, head: AnswerHead) -> None:
        """All of the answer has been relayed; the connection it came over is no longer this exchange's."""
        self.upstream = None
        self.owner.finished(self, head.status)
        self.client.answered(close=self.request.close)

    def attempt_failed(self, cause: FailureCause) -> None:
        """The attempt's connection is gone before its answer was complete."""
        self.upstream = None
        self.owner.attempt_failed(self, cause)

    def _cause_of(self, status: int) -> FailureCause | None:
        """Why an answer with the status is none; None where it is one."""
        if status == FAILED_STATUS and self.dispatch is not None and self.dispatch.last:
            return None  # it is what the client is told
        return NO_ANSWERS.get(status)

    @property
    def sent_pieces(self) -> int:
        """How much of the current attempt's answer the client has been sent; 0 while all of it is held back."""
        return self.pieces if self.answer_begun else 0

    def usage(self) -> Usage:
        """What the answer's last bytes say of `usage`. It stands in the last event but one of a stream."""
        answer = self._answer
        hidden = answer.usage_event if isinstance(answer, AnswerEvents) else b""
        return peek_usage(hidden or self._before_last + self._last)

    # How the gateway ends it.

    def answer_error(self, error: HttpError) -> None:
        """Answer with an error; nothing has been sent yet."""
        self.drop_upstream()
        close = self.request.close
        self.client.answer(error_response(error, request_id=self.request_id, close=close), close=close)

    def fail(self, cause: FailureCause) -> None:
        """End it with an error, however much has been sent."""
        self.drop_upstream()
        error = failed(cause)
        if not self.answer_begun:
            self.answer_error(error)
        elif self.event_stream and (self._chunked or self.request.http10):
            events = error_events(error)
            if not self._last.endswith(b"\n"):
                events = b"\n\n" + events  # the event that was cut off must not swallow the error
            self._write(b"%x\r\n%b\r\n%b" % (len(events), events, LAST_CHUNK) if self._chunked else events)
            self.client.answered(close=True)
        else:
            self.client.answering = None
            self.client.abort()  # the client sees that its answer is cut short

    # What the client does.

    def client_left(self) -> None:
        self.drop_upstream()
        self.owner.cancelled(self)

    def client_paused(self) -> None:
        if self.upstream is not None:
            self.upstream.pause_reading()

    def client_resumed(self) -> None:
        if self.upstream is not None:
            self.upstream.resume_reading()

    def _send(self, body: bytes, head: AnswerHead, complete: bool) -> None:
        """Written at once, in one piece: each write is a system call."""
        if body:
            self._before_last = self._last
            self._last = body
        if not self.answer_begun:
            self._begin_answer(head, body, complete)
        elif not self._chunked:
            self._write(body)
        elif body:
            self._write((b"%x\r\n%b\r\n0\r\n\r\n" if complete else b"%x\r\n%b\r\n") % (len(body), body))
        else:
            self._write(LAST_CHUNK)
        if body and not self.first_byte_at:
            self.owner.first_byte(self)

    def _begin_answer(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        """Send the head with the first of the body; not before there is some, so that until then another instance can
        try."""
        self.answer_begun = True
        self.event_stream = head.event_stream
        request = self.request
        lines = [head.status_line, *head.lines]
        if head.content_length is not None:
            lines.append(b"content-length: %d\r\n" % head.content_length)
        elif head.has_body and not request.http10:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if self.pool is not None and self.dispatch is not None:
            lines.append(self.pool.answer_lines)
            lines.append(b"%d\r\n" % (self.dispatch.queued_s * 1000.0))
        if self.answer_lines:
            lines.append(self.answer_lines)
        if request.close:
            lines.append(b"connection: close\r\n")
        lines.append(b"x-request-id: %b\r\n\r\n" % self.request_id)
        if not self._chunked:
            lines.append(body)
        else:
            if body:
                lines.append(b"%x\r\n%b\r\n" % (len(body), body))
            if complete:
                lines.append(LAST_CHUNK)
        self._write(b"".join(lines))
        if self.client.write_paused:
            self.client_paused()


def _read_as(head: AnswerHead, hides_usage: bool) -> Answer:
    if head.event_stream:
        return AnswerEvents(hides_usage)
    if head.content_length is not None and head.content_length <= MAX_HELD_BYTES:
        return HeldAnswer()
    return PASSED
