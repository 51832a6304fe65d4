"""One kept-alive connection to an instance: the request's bytes out, its answer parsed and relayed as it comes."""

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from dualmap.router.http.answer_head import NOTED, AnswerHead
from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.head_form import MOST_IN_VAIN
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.known_answer import KnownAnswer, known_answer
from dualmap.router.http.lone_chunk import END, LINE_OF_READ
from dualmap.router.http.mypyc_attr import mypyc_attr
from dualmap.scheduler.events import FailureCause

JOINED_BODY_BYTES = 16 * 1024  # up to here a copy is cheaper than the bookkeeping of a gathered write
CONTINUE_STATUS = 100
SWITCHING_STATUS = 101
FIRST_FINAL_STATUS = 200


class NoAnswerError(Exception):
    """A status that is none, or an interim answer with a body (RFC 9112, section 6.3)."""


@mypyc_attr(allow_interpreted_subclasses=True)
class ConnectionOwner:
    """Whose connections to one instance these are: its pool. head: what requests say of the instance. known: the last
    head of its answers, where others like it can be told by their bytes. noted_in_vain: such heads that no other was
    like."""

    head: InstanceHead
    known: KnownAnswer | None
    noted_in_vain: int

    def keep(self, connection: "UpstreamConnection") -> None:
        """Take a connection that has become idle."""
        raise NotImplementedError

    def forget(self, connection: "UpstreamConnection") -> None:
        """Drop a connection that is closed."""
        raise NotImplementedError

    def open_for(self, sink: AnswerSink) -> None:
        """Send the sink's request over a new connection."""
        raise NotImplementedError


class UpstreamConnection:
    """Fetches one answer at a time. An asyncio.Protocol by its methods alone, see connect. idle_since: when the last
    answer was complete."""

    __deletable__ = ("_parser",)  # for mypyc

    __slots__ = (
        "_amid",
        "_answer",
        "_begun_with",
        "_bodiless",
        "_clock",
        "_head",
        "_header",
        "_parser",
        "_pieces",
        "_pool",
        "_received_any",
        "_reused",
        "_sink",
        "_transport",
        "idle_since",
    )

    def __init__(self, pool: ConnectionOwner, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any other callback
        self._parser: HttpResponseParser  # from when there is a connection to when there is none: it refers back here
        self._sink: AnswerSink | None = None
        self._head = AnswerHead()  # being read
        self._answer: AnswerHead | None = None  # the head of a complete answer
        self._begun_with = b""  # the read with which the head begins that is being parsed
        self._header: list[tuple[bytes, bytes]] = []  # of that head
        self._pieces: list[bytes] = []
        self._received_any = False
        self._amid = True  # what the parser has read ends somewhere else than between two chunks
        self._bodiless = False  # the request at hand is HEAD
        self._reused = False
        self.idle_since = 0.0

    # What the pool and the sink call.

    def run(self, sink: AnswerSink, head: bytes, body: bytes) -> None:
        """Send the request; the answer goes to the sink as it comes."""
        self._sink = sink
        self._answer = None
        self._received_any = False
        self._amid = True
        self._bodiless = head.startswith(b"HEAD ")
        sink.upstream = self
        if len(body) < JOINED_BODY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def abort(self) -> None:
        """Drop the connection; the sink hears no more of it."""
        self._sink = None
        self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:  # nobody asked for it
            self._transport.abort()
            return
        if not self._amid:
            line = LINE_OF_READ.get(len(data))
            if line is not None and data.startswith(line) and data.endswith(END):  # past the parser: one more chunk
                sink.relay(data[len(line) : -2], 1, self._head, False)
                return
        pool = self._pool
        if not self._received_any:
            self._received_any = True
            known = pool.known
            if known is not None and not self._bodiless and (whole := known.whole(data)) is not None:
                pool.noted_in_vain = 0
                head, body = whole  # the parser has not seen it
                self._relay(sink, [body] if body else [], head, True)
                return
            if pool.noted_in_vain < MOST_IN_VAIN:
                self._begun_with = data
        pieces = self._pieces
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if isinstance(error, HttpParserCallbackError) and not isinstance(error.__context__, NoAnswerError):
                raise error.__context__ or error from None
            if self._answer is None:
                self._fail(sink, FailureCause.BROKEN)
                return
            self._answer.keep_alive = False  # it sent more than the answer
        self._amid = self._amid or data[-2:] != END
        answer = self._answer
        if pieces or answer is not None:
            self._relay(sink, pieces, answer or self._head, answer is not None)

    def eof_received(self) -> None:
        sink = self._sink
        if sink is not None and self._head.until_close and self._received_any:
            self._relay(sink, [], self._head, True)

    def pause_writing(self) -> None:
        """The request is whole, and waits in the transport's buffer."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        del self._parser  # else both would wait for the garbage collector
        sink = self._sink
        if sink is None:
            return
        self._sink = None
        if self._reused and not self._received_any:  # the instance had closed it already
            self._pool.open_for(sink)
        else:
            sink.attempt_failed(FailureCause.BROKEN)

    # The parser's callbacks; none may raise but NoAnswerError.

    def on_message_begin(self) -> None:
        if self._answer is not None:  # a second answer to one request: kept apart, and dropped with the connection
            self._answer.keep_alive = False
            self._pieces = []
        self._head = AnswerHead()

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head.status:  # a trailer: it means nothing here
            return
        if self._begun_with:
            self._header.append((name, value))
        lower = name.lower()
        if lower in NOTED:
            head.note(lower, value)
        else:
            head.lines.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        parser, head = self._parser, self._head
        head.complete(parser.get_status_code(), parser.should_keep_alive(), self._pool.head)
        if head.status < FIRST_FINAL_STATUS:
            if head.status < CONTINUE_STATUS or head.content_length or head.chunked:
                raise NoAnswerError
        elif self._bodiless and self._answer is None:
            head.bodiless, head.keep_alive = True, False  # the parser waits for a body
            self._answer = head
            self._pieces = []  # whatever comes is none of it
        elif self._begun_with and (known := known_answer(head, self._begun_with, self._header)) is not None:
            self._pool.known = known
            self._pool.noted_in_vain += 1
        self._begun_with = b""
        self._header = []

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_chunk_header(self) -> None:
        self._amid = True

    def on_chunk_complete(self) -> None:
        self._amid = False  # unless the next one's size has begun

    def on_message_complete(self) -> None:
        if self._head.status < FIRST_FINAL_STATUS and self._head.status != SWITCHING_STATUS:
            self._head = AnswerHead()
        elif self._answer is None:
            self._answer = self._head

    # How an attempt goes on and ends.

    def _relay(self, sink: AnswerSink, pieces: list[bytes], head: AnswerHead, complete: bool) -> None:
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        sink.relay(body, len(pieces), head, complete)
        pieces.clear()
        if complete and self._sink is sink:  # which may have given up on it
            self._finish(sink, head)

    def _finish(self, sink: AnswerSink, head: AnswerHead) -> None:
        self._sink = None
        transport = self._transport
        if head.keep_alive and not transport.is_closing() and not transport.get_write_buffer_size():
            transport.resume_reading()
            self._reused = True
            self.idle_since = self._clock()
            self._pool.keep(self)
        else:
            transport.abort()
        sink.answer_complete(head)

    def _fail(self, sink: AnswerSink, cause: FailureCause) -> None:
        self.abort()
        sink.attempt_failed(cause)
