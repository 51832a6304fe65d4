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
        self._refused = False  # what still arrives is dropped
        self._gone = False
        self._reading_paused = False
        self._upgrade_head: bytes | None = None
        self._quiet_since = 0.0  # between requests, after a refusal, or since writing was paused

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._quiet_since = self._clock()
        if len(self._service.clients) >= self._limits.max_connections:
            self._refuse(unavailable("Too many connections."))
        self._service.clients.add(self)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except HttpParserError as error:
            self._refuse(bad_request(f"The request is not valid HTTP: {error}."))
        if self._pending:
            self._begin_pending()
        request = self._request
        if request is not None and not self._refused:
            self._check_unfinished(request, len(data))

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
        request = cast(HttpRequest, self._request)
        if not request.head_complete:  # later ones are trailers, which mean nothing here
            request.add_header(name, value)

    def on_headers_complete(self) -> None:
        request = cast(HttpRequest, self._request)
        parser = self._parser
        if self._refused:
            return
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self._upgrade_head = self._head_without_upgrade(request, method)
            return
        error = request.complete_head(method.decode(), parser.get_http_version(), parser.should_keep_alive())
        limits = self._limits
        if request.head_bytes > limits.max_head_bytes:
            error = head_too_large(limits.max_head_bytes)
        elif error is None and (request.content_length or 0) > limits.max_body_bytes:
            error = body_too_large(limits.max_body_bytes)
        if error is not None:
            self._refuse(error)
            return
        request.refusal = self._service.check_head(request)
        if request.refusal is not None and (request.needs_continue or method == b"CONNECT"):
            self._refuse(request.refusal)

    def on_body(self, piece: bytes) -> None:
        request = cast(HttpRequest, self._request)
        if self._refused:
            return
        request.body_bytes += len(piece)
        if request.body_bytes > self._limits.max_body_bytes:
            request.body_pieces.clear()
            self._refuse(body_too_large(self._limits.max_body_bytes))
        elif request.refusal is None:
            request.body_pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._refused or self._upgrade_head is not None:
            return
        self._pending.append(cast(HttpRequest, self._request))
        self._request = None

    # What the service calls.

    def answer(self, response: bytes, *, close: bool) -> None:
        """Answer the current request with a complete response, which must say so if it closes the connection."""
        self.transport.write(response)
        self.answered(close=close)

    def answered(self, *, close: bool) -> None:
        """The answer to the current request has been written; go on with the next."""
        self.answering = None
        if self._gone:
            return
        if close:
            self._pending.clear()
            self._close_gently()
            return
        self._quiet_since = self._clock()
        if self._pending or self._reading_paused:
            self._begin_pending()
        self._send_continue_if_due()

    def close_if_idle(self) -> None:
        """Close now if no request is being read or answered."""
        if self.answering is None and self._request is None and not self._pending and not self._refused:
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection with whatever has not been sent."""
        self.transport.abort()
        self._leave()

    def sweep(self, now: float) -> None:
        """Apply the time-outs; called periodically."""
        limits = self._limits
        quiet_s = now - self._quiet_since
        if self.write_paused:
            if quiet_s > limits.write_timeout_s:
                self.abort()
        elif self._refused:
            if self.answering is None and quiet_s > limits.linger_s:
                self.abort()
        elif self._request is not None:
            self._check_reading_time(self._request, now)
        elif self.answering is None and quiet_s > limits.idle_timeout_s:
            self.transport.close()

    # Reading.

    def _check_unfinished(self, request: HttpRequest, received_bytes: int) -> None:
        """The rest of the request is still to come."""
        if request.head_complete:
            if self.answering is None:
                self._send_continue_if_due()
            return
        # What arrived last may begin with the end of another request; counting it in full errs by one read at most.
        request.head_bytes = max(request.head_bytes, min(received_bytes, self._limits.max_head_bytes))
        if request.head_bytes > self._limits.max_head_bytes:
            self._refuse(head_too_large(self._limits.max_head_bytes))

    def _check_reading_time(self, request: HttpRequest, now: float) -> None:
        limits = self._limits
        if not request.head_complete:
            if now - request.begun_at > limits.header_timeout_s:
                self._refuse(request_timeout("head", limits.header_timeout_s))
        elif not self._reading_paused and now - request.begun_at > limits.header_timeout_s + limits.body_timeout_s:
            self._refuse(request_timeout("body", limits.body_timeout_s))
