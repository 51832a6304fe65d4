"""One client's connection: bytes in, requests out in order; answers back, one request at a time.

Requests read ahead of the one being answered wait here. Anything malformed is answered after what came before it, and
closes the connection: what follows cannot be told apart from an attack.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from router.http_request import HttpRequest
from router.limits import HttpLimits
from router.openai_errors import (
    HttpError,
    bad_request,
    body_too_large,
    error_response,
    head_too_large,
    request_timeout,
    unavailable,
)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answering(Protocol):
    """What answers the current request over time, and is told what becomes of the client."""

    def client_left(self) -> None: ...

    def client_paused(self) -> None:
        """The client takes no more for now: its write buffer is full."""

    def client_resumed(self) -> None: ...


class HttpService(Protocol):
    """What requests are for: the gateway, or its admin endpoints."""

    clients: set["ClientConnection"]

    def check_head(self, request: HttpRequest) -> HttpError | None:
        """Whether the request is refused before its body is read."""

    def begin(self, request: HttpRequest, client: "ClientConnection") -> None:
        """Answer the request: at once by `client.answer`, or over time by setting `client.answering`."""

    def refused(self, error: HttpError) -> None:
        """A request was answered with this error by the connection itself."""


class ClientConnection(asyncio.Protocol):
    """answering: who answers the current request; None between requests. write_paused: the client's write buffer is
    full."""

    def __init__(self, service: HttpService, limits: HttpLimits, clock: Callable[[], float]) -> None:
        self._service = service
        self._limits = limits
        self._clock = clock
        self.answering: Answering | None = None
        self.write_paused = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any other callback
        self._parser = HttpRequestParser(self)
        self._request: HttpRequest | None = None  # being read
        self._pending: deque[HttpRequest] = deque()  # read, to be answered in this order
        self._beginning = False
        self._closing = False  # nothing more is answered than what is pending; what still arrives is dropped
        self._gone = False
        self._reading_paused = False
        self._replayed_head = b""
        self._quiet_since = 0.0  # end of the last answer, or since nothing could be written
        self._unsent_bytes = 0  # at the last sweep

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._quiet_since = self._clock()
        if len(self._service.clients) >= self._limits.max_connections:
            self._refuse(unavailable("Too many connections."))
            self._begin_pending()
        self._service.clients.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        request_before = self._request
        pending_before = len(self._pending)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self._replayed_head:
                self._go_on_without_upgrade(data[upgrade.args[0] :])
                return
        except HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except HttpParserError as error:
            self._refuse(bad_request(f"The request is not valid HTTP: {error}."))
        request = self._request
        if request is not None and not request.head_complete:
            began_here = request_before is None and len(self._pending) == pending_before
            if request is request_before or began_here:
                request.unparsed_bytes += len(data)
                if request.unparsed_bytes > self._limits.max_head_bytes:
                    self._refuse(head_too_large(self._limits.max_head_bytes))
        if self._pending:
            self._begin_pending()
        if request is not None and request.needs_continue:
            self._send_continue_if_due()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.clients.discard(self)
        self._leave()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._quiet_since = self._clock()
        if self.answering is not None:
            self.answering.client_paused()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._quiet_since = self._clock()
        if self.answering is not None:
            self.answering.client_resumed()

    # The parser's callbacks; none may raise.

    def on_message_begin(self) -> None:
        self._request = HttpRequest(self._clock())

    def on_url(self, url: bytes) -> None:
        request = cast(HttpRequest, self._request)
        request.target += url
        request.head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is not None and not request.head_complete:  # later ones are trailers, which mean nothing here
            request.add_header(name, value)

    def on_headers_complete(self) -> None:
        if self._closing:
            return
        request = cast(HttpRequest, self._request)
        parser = self._parser
        limits = self._limits
        method = parser.get_method().decode()
        error = request.complete_head(method, parser.get_http_version(), parser.should_keep_alive())
        if request.head_bytes > limits.max_head_bytes:
            error = head_too_large(limits.max_head_bytes)
        elif error is None and (request.content_length or 0) > limits.max_body_bytes:
            error = body_too_large(limits.max_body_bytes)
        if error is None:
            if parser.should_upgrade() and method != "CONNECT":
                self._replayed_head = request.head_without_upgrade()
                return
            request.refusal = self._service.check_head(request)
            if request.needs_continue or method == "CONNECT":
                error = request.refusal
        if error is not None:
            self._refuse(error)

    def on_body(self, piece: bytes) -> None:
        if self._closing:
            return
        request = cast(HttpRequest, self._request)
        request.body_bytes += len(piece)
        if request.body_bytes > self._limits.max_body_bytes:
            request.body_pieces.clear()
            self._refuse(body_too_large(self._limits.max_body_bytes))
        elif request.refusal is None:
            request.body_pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._closing or self._replayed_head:
            return
        self._pending.append(cast(HttpRequest, self._request))
        self._request = None

    # What the service calls.

    def answer(self, response: bytes, *, close: bool) -> None:
        """Answer the current request with a complete response, which must say so itself if the connection closes."""
        self.transport.write(response)
        self.answered(close=close)

    def answered(self, *, close: bool) -> None:
        """The answer to the current request has been written whole; go on with the next."""
        self.answering = None
        if self._gone:
            return
        self._quiet_since = self._clock()
        if self._request is not None:
            self._request.begun_at = (
                self._quiet_since
            )  # it could not be read, or had no turn, while this one was answered
        if close:
            self._closing = True
            self._pending.clear()
            self.transport.write_eof()  # the client closes when it has read all; `linger_s` is for those that do not
        elif self._pending or self._reading_paused:
            self._begin_pending()
        else:
            self._send_continue_if_due()

    def close_if_idle(self) -> None:
        """Close now if no request is being read or answered."""
        if self.answering is None and self._request is None and not self._pending:
            self.transport.close()

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
        quiet_s = now - self._quiet_since
        if self.write_paused:
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes < self._unsent_bytes:
                self._quiet_since = now
            elif quiet_s > limits.write_timeout_s:
                self.abort()
            self._unsent_bytes = unsent_bytes
        elif self.answering is not None:
            pass  # the instance's time-outs apply
        elif self._closing:
            if quiet_s > limits.linger_s:
                self.abort()
        elif self._request is not None:
            self._check_reading_time(self._request, now)
        elif quiet_s > limits.idle_timeout_s:
            self.transport.close()

    # From one request to the next.

    def _begin_pending(self) -> None:
        """Begin requests until one is being answered over time. Not reentrant: answers given at once do not nest."""
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._pending and self.answering is None:
                request = self._pending.popleft()
                if request.refusal is None:
                    self._service.begin(request, self)
                else:
                    self._service.refused(request.refusal)
                    request_id = request.client_request_id
                    response = error_response(request.refusal, request_id=request_id, close=request.close)
                    self.answer(response, close=request.close)
        finally:
            self._beginning = False
        if len(self._pending) >= self._limits.max_pipelined:
            self._reading_paused = True
            self.transport.pause_reading()
        elif self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _refuse(self, error: HttpError) -> None:
        """Put an error last in the line of answers, and read no further. The caller begins what is pending."""
        request = self._request or HttpRequest(self._clock())
        request.refusal = error
        request.close = True
        self._closing = True
        self._request = None
        self._pending.append(request)

    def _leave(self) -> None:
        """The client is gone."""
        if self._gone:
            return
        self._gone = self._closing = True
        self._pending.clear()
        answering, self.answering = self.answering, None
        if answering is not None:
            answering.client_left()

    # Reading one request.

    def _check_reading_time(self, request: HttpRequest, now: float) -> None:
        limits = self._limits
        reading_s = now - request.begun_at
        if not request.head_complete:
            if reading_s > limits.header_timeout_s:
                self._refuse(request_timeout("head", limits.header_timeout_s))
        elif reading_s > limits.header_timeout_s + limits.body_timeout_s:
            self._refuse(request_timeout("body", limits.body_timeout_s))
        self._begin_pending()

    def _send_continue_if_due(self) -> None:
        """Ask for the body once its turn has come; an interim answer must not stand inside another answer."""
        request = self._request
        if request is None or not request.needs_continue or self.answering is not None or self._closing:
            return
        request.needs_continue = False
        if not request.body_bytes:
            self.transport.write(CONTINUE)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """An offer to upgrade may be ignored (RFC 9110, section 7.8), but the parser then leaves the body unread: it is
        given the head again, without the offer."""
        head, self._replayed_head = self._replayed_head, b""
        self._request = None
        self._parser = HttpRequestParser(self)
        self.data_received(head + rest)
