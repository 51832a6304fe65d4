"""A kept-alive connection to one server, for the background: health, metrics, model lists; never requests of users."""

import asyncio
import json
from contextlib import closing, suppress
from typing import Any, NamedTuple, cast

import httptools

from dualmap.instances.server.reasons import NO_HTTP, no_answer, what_it_is
from dualmap.router.http.endpoint_connection import connect
from dualmap.router.http.instance_head import RANK_FIELD
from dualmap.router.http.instance_key import authorization_line
from dualmap.scheduler.fleet.endpoint import Endpoint

OK_STATUS = 200
MAX_BODY_BYTES = 8 * 1024 * 1024  # to read as much takes a good part of a second, in which other servers wait
# One for all connections of a process: what came is read before anything else comes.
_ARRIVED = memoryview(bytearray(256 * 1024))
# Logs and filters of servers have known the gateway's own requests by this name.
AGENT = "Python-urllib dualmap"


class Answer(NamedTuple):
    """status: of HTTP."""

    status: int
    body: bytes


class NoAnswerError(Exception):
    """The message says why: `connection refused`."""


class ServerClient:
    """One call at a time; others wait for it. changing: held while the server's adapters are changed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.changing = asyncio.Lock()
        self._connection: _Connection | None = None
        self._turn = asyncio.Lock()
        self._gets: dict[str, bytes] = {}  # the lines of requests, by path

    def what_it_is(self, body: bytes) -> str:
        """For people, of the answer that came last. body: of it."""
        fields = {} if self._connection is None else self._connection.fields
        return what_it_is(body, fields.get(b"server", ""), fields.get(b"location", ""))

    async def get(self, path: str, timeout_s: float) -> Answer:
        """Raises NoAnswerError."""
        request = self._gets.get(path)
        if request is None:
            request = self._gets[path] = self._head("GET", path)
        return await self._call(request, b"", timeout_s)

    async def post(self, path: str, value: Any, timeout_s: float) -> Answer:
        """Send the value as JSON. Raises NoAnswerError."""
        body = json.dumps(value).encode()
        head = self._head("POST", path) + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        return await self._call(head, body, timeout_s)

    def close(self) -> None:
        """The next call connects anew."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _head(self, method: str, path: str) -> bytes:
        endpoint = self.endpoint
        lines = [f"{method} {endpoint.prefix}{path} HTTP/1.1", f"host: {endpoint.authority}", f"user-agent: {AGENT}"]
        if endpoint.rank is not None:
            lines.append(f"{RANK_FIELD.decode()}: {endpoint.rank}")
        return "".join(f"{line}\r\n" for line in lines).encode()

    async def _call(self, head: bytes, body: bytes, timeout_s: float) -> Answer:
        request = b"%b%b\r\n%b" % (head, authorization_line(self.endpoint), body)
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(request)
            except OSError as error:
                self.close()
                raise NoAnswerError(no_answer(error, timeout_s)) from None
            except BaseException:
                self.close()  # what is still to come must not be taken for another answer
                raise

    async def _exchange(self, request: bytes) -> Answer:
        """A server may close a connection that idles at the very moment at which it is used again: then once more."""
        used = self._connection
        if used is not None and used.is_open:
            try:
                return await used.exchange(request)
            except UnusedError:
                pass
        _, connection = await connect(self.endpoint, _Connection)
        self._connection = connection
        return await connection.exchange(request)


async def get_once(endpoint: Endpoint, path: str, timeout_s: float) -> bytes | None:
    """The body of a 200 answer; None for any other answer and for none."""
    with closing(ServerClient(endpoint)) as server, suppress(NoAnswerError):
        status, body = await server.get(path, timeout_s)
        return body if status == OK_STATUS else None
    return None


class UnusedError(ConnectionResetError):
    """The connection was closed before anything of an answer had come."""


class _Connection(asyncio.BufferedProtocol):
    """HTTP/1.1 as httptools reads it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._begun = False
        self._ends_by_closing = True  # no length was told: the body ends with the connection
        self.fields: dict[bytes, str] = {}  # of the last answer, by which it may be known

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def exchange(self, request: bytes) -> asyncio.Future[Answer]:
        """The answer; raises OSError, NoAnswerError."""
        assert self._transport is not None
        self._begun = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def abort(self) -> None:
        self._answer = None
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ARRIVED

    def buffer_updated(self, nbytes: int) -> None:
        self._begun = True
        try:
            self._parser.feed_data(_ARRIVED[:nbytes])
        except httptools.HttpParserError:
            self._fail(NoAnswerError(NO_HTTP))

    def eof_received(self) -> None:
        if self._begun and self._ends_by_closing and self._parser.get_status_code():
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionResetError() if self._begun else UnusedError())

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._pieces = []
        self._size_bytes = 0
        self._ends_by_closing = True
        self.fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._ends_by_closing = False
        elif name in (b"server", b"location"):
            self.fields[name] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._size_bytes += len(body)
        if self._size_bytes > MAX_BODY_BYTES:
            self._fail(NoAnswerError(f"it answers with more than {MAX_BODY_BYTES // 1024 // 1024} MiB"))
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._answer is None or self._answer.done():  # an interim answer, or one nobody asked for
            return
        pieces, self._pieces = self._pieces, []
        self._answer.set_result(Answer(status, pieces[0] if len(pieces) == 1 else b"".join(pieces)))
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._transport is not None:
            self._transport.abort()
