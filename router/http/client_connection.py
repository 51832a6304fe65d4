"""One client's connection: requests in, in order; answers back, one request at a time.

Requests read ahead of the one being answered wait in the reader.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, assert_never, cast

from dualmap.router.http.connection_phase import ANSWERED, BEGUN, GONE, LAST_ANSWERED, PAUSED, RESUMED, ConnectionPhase
from dualmap.router.http.half_closed import HalfClosed
from dualmap.router.http.http_request import NO_REQUEST, HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, error_response, request_timeout, unavailable
from dualmap.router.http.request_reader import RequestReader

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answering(Protocol):
    """What answers the current request over time, and is told what becomes of the client."""

    def client_left(self) -> None: ...

    def client_paused(self) -> None:
        """The client takes no more for now: its write buffer is full."""

    def client_resumed(self) -> None: ...

    def probe_client(self) -> bool:
        """Whether a client that sends no more is answered still. Where that may take long, a little is sent that tells
        it nothing yet: the system of a client who has left answers with a reset."""
        ...


class HttpService(Protocol):
    """What requests are for: the gateway, or its admin endpoints."""

    clients: set["ClientConnection"]

    def check_head(self, request: HttpRequest) -> HttpError | None:
        """Whether the request is refused before its body is read."""

    def begin(self, request: HttpRequest, client: "ClientConnection") -> None:
        """Answer the request: at once by `client.answer`, or over time by `client.answer_over_time`."""

    def refused(self, error: HttpError) -> None:
        """A request was answered with this error by the connection itself."""


class ClientConnection:
    """An asyncio.Protocol by its methods alone, see connect. answering: who answers the current request over time; None
    where nobody does."""

    def __init__(self, service: HttpService, limits: HttpLimits, clock: Callable[[], float]) -> None:
        self.answering: Answering | None = None
        self.phase = ConnectionPhase.IDLE
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any other callback
        self._service = service
        self._limits = limits
        self._clock = clock
        self._reader: RequestReader  # not before there is a connection: with TLS it may not come to that
        self._beginning = False
        self._reading_paused = False
        self._request = NO_REQUEST  # being answered
        self._half_closed: HalfClosed | None = None  # the client sends no more, and still waits for answers
        self._quiet_since = 0.0  # end of the last answer, or since nothing could be written
        self._unsent_bytes = 0  # at the last sweep

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._reader = RequestReader(self._limits, self._service.check_head, self._clock)
        self._quiet_since = self._clock()
        if len(self._service.clients) >= self._limits.max_connections:
            self._reader.refuse(unavailable("Too many connections."))
            self._begin_ready()
        self._service.clients.add(self)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        if reader.ready:
            self._begin_ready()
        if reader.request is not None:
            self._send_continue_if_due(reader.request)

    def eof_received(self) -> bool:
        """Returns whether the connection stays: what has come whole is answered. With TLS it cannot be kept half
        open."""
        self._reader.end()
        has_tls = self.transport.get_extra_info("ssl_object") is not None
        if self.answering is None or has_tls or not self.answering.probe_client():
            self._leave()
            return False
        self._half_closed = HalfClosed(self.transport.get_extra_info("socket").fileno(), self._clock())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.clients.discard(self)
        self._leave()
        self._reader.close()

    def pause_writing(self) -> None:
        self.phase = PAUSED[self.phase]
        self._quiet_since = self._clock()
        if self.answering is not None:
            self.answering.client_paused()

    def resume_writing(self) -> None:
        self.phase = RESUMED[self.phase]
        self._quiet_since = self._clock()
        if self.answering is not None:
            self.answering.client_resumed()

    # What the service calls.

    def answer_over_time(self, answering: Answering) -> None:
        """Begin to answer the current request; `answered` ends it."""
        self.phase = BEGUN[self.phase]
        self.answering = answering

    def answer(self, response: bytes, *, close: bool) -> None:
        """Answer the current request with a complete response, which must say so itself if the connection closes."""
        request = self._request
        if request.answer_lines or request.method == "HEAD":
            response = _fitted(response, request)
        self.transport.write(response)
        self.answered(close=close)

    def answered(self, *, close: bool) -> None:
        """The answer to the current request has been written whole; go on with the next."""
        self.answering = None
        self._request = NO_REQUEST
        reader = self._reader
        half_closed = self._half_closed is not None
        if half_closed and not reader.ready:
            close = True
        phase = self.phase = (LAST_ANSWERED if close else ANSWERED)[self.phase]
        if phase is GONE:
            return
        now = self._quiet_since = self._clock()
        if close:
            reader.stop()
            if half_closed or not self.transport.can_write_eof():  # TLS cannot
                self.transport.close()
            else:  # the client closes when it has read all; `linger_s` is for those that do not
                self.transport.write_eof()
            return
        if reader.request is not None:
            reader.request.begun_at = now  # it could not be read, or had no turn, while this one was answered
        if reader.ready or self._reading_paused:
            self._begin_ready()
        if reader.request is not None:
            self._send_continue_if_due(reader.request)

    def close_if_idle(self, idle_s: float = 0.0) -> None:
        """Close now if no request is being read or answered, and none was for so long."""
        if self.answering is None and not self.has_more and self._clock() - self._quiet_since >= idle_s:
            self.transport.close()

    @property
    def has_more(self) -> bool:
        """Some of a request behind the one being answered has come."""
        return self._reader.request is not None or bool(self._reader.ready)

    @property
    def has_unsent(self) -> bool:
        """Some of an answer is still in the write buffer."""
        return self.transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Drop the connection with whatever has not been sent."""
        self.transport.abort()
        self._leave()

    def sweep(self, now: float) -> None:
        """Apply the time-outs; called periodically."""
        limits = self._limits
        match self.phase:
            case ConnectionPhase.ANSWERING:  # the instance's time-outs apply
                if self._half_closed is not None:
                    self._check_presence(self._half_closed, now)
            case ConnectionPhase.BLOCKED | ConnectionPhase.UNREAD | ConnectionPhase.CLOSING_UNREAD:
                self._abort_unless_some_is_taken(limits.write_timeout_s, now)
            case ConnectionPhase.GONE if self.has_unsent:
                self._abort_unless_some_is_taken(limits.write_timeout_s, now)
            case ConnectionPhase.CLOSING | ConnectionPhase.GONE:
                if now - self._quiet_since > limits.linger_s:
                    self.abort()
            case ConnectionPhase.IDLE:
                if self._reader.request is not None:
                    self._check_reading_time(self._reader.request, now)
                elif now - self._quiet_since > limits.idle_timeout_s:
                    self.transport.close()
            case _:
                assert_never(self.phase)

    # From one request to the next.

    def _begin_ready(self) -> None:
        """Begin requests until one is being answered over time. Not reentrant: answers given at once do not nest."""
        if self._beginning:
            return
        ready = self._reader.ready
        self._beginning = True
        try:
            while ready and self.answering is None:
                request = self._request = ready.popleft()
                if request.refusal is None:
                    self._service.begin(request, self)
                else:
                    self._answer_refusal(request, request.refusal)
        finally:
            self._beginning = False
        if len(ready) >= self._limits.max_pipelined:
            self._reading_paused = True
            self.transport.pause_reading()
        elif self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _answer_refusal(self, request: HttpRequest, error: HttpError) -> None:
        self._service.refused(error)
        response = error_response(
            error, request_id=request.client_request_id, close=request.close, shape=request.error_shape
        )
        self.answer(response, close=request.close)

    def _abort_unless_some_is_taken(self, timeout_s: float, now: float) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self._quiet_since = now
        elif now - self._quiet_since > timeout_s:
            self.abort()
        self._unsent_bytes = unsent_bytes

    def _check_presence(self, half_closed: HalfClosed, now: float) -> None:
        if half_closed.was_reset:
            self.abort()
        elif half_closed.probe_due(now) and self.answering is not None:
            self.answering.probe_client()

    def _check_reading_time(self, request: HttpRequest, now: float) -> None:
        limits = self._limits
        reading_s = now - request.begun_at
        if not request.head_complete:
            if reading_s > limits.header_timeout_s:
                self._reader.refuse(request_timeout("head", limits.header_timeout_s))
        elif reading_s > limits.header_timeout_s + limits.body_timeout_s:
            self._reader.refuse(request_timeout("body", limits.body_timeout_s))
        self._begin_ready()

    def _send_continue_if_due(self, request: HttpRequest) -> None:
        """Ask for the body once its turn has come; an interim answer must not stand inside another answer."""
        if request.needs_continue and self.answering is None:
            request.needs_continue = False
            if not request.body_bytes:
                self.transport.write(CONTINUE)

    def _leave(self) -> None:
        """The client is gone."""
        if self.phase is ConnectionPhase.GONE:
            return
        self.phase = ConnectionPhase.GONE
        self._reader.stop()
        self._request = NO_REQUEST
        answering, self.answering = self.answering, None
        if answering is not None:
            answering.client_left()


def _fitted(response: bytes, request: HttpRequest) -> bytes:
    """A complete response as the request gets it: with the lines meant for all its answers, without body for HEAD."""
    head, end, body = response.partition(b"\r\n\r\n")
    lines = b"\r\n" + request.answer_lines[:-2] if request.answer_lines else b""
    return b"".join((head, lines, end, b"" if request.method == "HEAD" else body))
