"""Bytes from a client -> whole requests. Anything malformed or too large becomes a last request with a refusal."""

from collections import deque
from collections.abc import Callable

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from dualmap.router.http.head_form import MOST_IN_VAIN
from dualmap.router.http.http_request import NO_REQUEST, NOTED, HttpRequest
from dualmap.router.http.known_request import KnownRequest, known_request
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import (
    HttpError,
    bad_request,
    body_too_large,
    head_too_large,
    unsupported_encoding,
)
from dualmap.router.http.unpacking import ENCODINGS, IDENTITY, CorruptBodyError, Unpacking, is_known


class RequestReader:
    """ready: requests read whole, in order. request: the one being read, None between two. stopped: after a refusal
    that closes the connection nothing more is read, since what follows cannot be told apart from an attack."""

    __deletable__ = ("_parser",)  # for mypyc

    def __init__(
        self, limits: HttpLimits, check_head: Callable[[HttpRequest], HttpError | None], clock: Callable[[], float]
    ) -> None:
        """check_head: whether a request is refused before its body is read."""
        self.ready: deque[HttpRequest] = deque()
        self.request: HttpRequest | None = None
        self.stopped = False
        self._limits = limits
        self._check_head = check_head
        self._clock = clock
        self._current = NO_REQUEST  # what is being filled
        self._fed_bytes = 0  # in the read at hand
        self._begun_with = b""  # the read with which the head begins that is being parsed
        self._header: list[tuple[bytes, bytes]] = []  # of that head
        self._known: KnownRequest | None = None  # the last head, where others like it can be told by their bytes
        self.noted_in_vain = 0  # heads that no other was like
        self._left_bytes = 0  # of a body that the parser does not see
        self._replayed_head = b""
        self._parser = HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Read what has arrived."""
        if self._left_bytes:
            data = self._take_body(data)
        known = self._known
        if known is not None and self._current is NO_REQUEST and (found := known.form.match(data)) is not None:
            values, head_bytes = found
            data = self._begin_known(known, values, head_bytes, data)
        if data:
            self._parse(data)

    def _begin_known(self, known: KnownRequest, values: list[bytes], head_bytes: int, data: bytes) -> bytes:
        """Do as the parser does with a head that is known. Returns what is left of the data."""
        limits = self._limits
        request = known.request(values, self._clock(), len(data) - head_bytes)
        length = request.content_length or 0
        if head_bytes > limits.max_head_bytes or length > limits.max_body_bytes:
            return data
        self.noted_in_vain = 0
        request.refusal = self._check_head(request)
        rest = data[head_bytes:]
        if len(rest) == length:  # as most come
            if rest and request.refusal is None:
                request.body_pieces.append(rest)
            request.body_bytes = length
            self.ready.append(request)
            return b""
        self._current = self.request = request
        self._left_bytes = length
        return self._take_body(rest)

    def _take_body(self, data: bytes) -> bytes:
        """Do as the parser does with a body whose length is known. Returns what stands behind it."""
        left_bytes = self._left_bytes
        piece = data[:left_bytes]
        self._left_bytes -= len(piece)
        if piece:
            self.on_body(piece)
        if not self._left_bytes:
            self.on_message_complete()
        return data[left_bytes:]

    def _parse(self, data: bytes) -> None:
        if self.stopped:
            return
        self._begun_with = data if self._current is NO_REQUEST else b""
        self._header = []
        self._fed_bytes = len(data)
        request_before = self.request
        ready_before = len(self.ready)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self._replayed_head:
                self._go_on_without_upgrade(data[upgrade.args[0] :])
            return
        except HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except HttpParserError as error:
            self.refuse(bad_request(f"The request is not valid HTTP: {error}."))
            return
        request = self.request
        if request is not None and not request.head_complete:
            # Counted unless the head began behind another request in the same read.
            if request is request_before or (request_before is None and len(self.ready) == ready_before):
                request.unparsed_bytes += len(data)
            if request.unparsed_bytes > self._limits.max_head_bytes:
                self.refuse(head_too_large(self._limits.max_head_bytes))

    def refuse(self, error: HttpError) -> None:
        """Put an error last in the line of requests, and read no further."""
        if self.stopped:
            return
        request = self.request or HttpRequest(self._clock())
        request.refusal = error
        request.close = True
        request.body_pieces.clear()
        request.unpacking = None
        self.end()
        self.ready.append(request)

    def end(self) -> None:
        """Drop what has been read of a request, and what still comes."""
        self.stopped = True
        self.request = None
        self._current = NO_REQUEST
        self._known = None
        self._left_bytes = 0

    def stop(self) -> None:
        """Drop what has been read, and what still comes."""
        self.end()
        self.ready.clear()

    def close(self) -> None:
        """Let go of the parser, which refers back here: else both would wait for the garbage collector. After `end`."""
        del self._parser

    # The parser's callbacks; none may raise. After a refusal they still come until the end of the read.

    def on_message_begin(self) -> None:
        self._current = HttpRequest(self._clock())
        if not self.stopped:
            self.request = self._current

    def on_url(self, url: bytes) -> None:
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._current
        if request.head_complete:  # trailers mean nothing here
            return
        if self._begun_with:
            self._header.append((name, value))
        lower = name.lower()
        if lower in NOTED:
            request.note(lower, value)
        else:
            request.forwarded.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        if self.stopped:
            return
        request = self._current
        parser = self._parser
        limits = self._limits
        method = parser.get_method().decode()
        target = request.target
        error = request.complete_head(method, parser.get_http_version(), parser.should_keep_alive())
        received_bytes = (
            request.unparsed_bytes + self._fed_bytes
        )  # no less than the head; counting it exactly costs more
        if received_bytes > limits.max_head_bytes and request.head_bytes > limits.max_head_bytes:
            error = head_too_large(limits.max_head_bytes)
        if error is None:
            if parser.should_upgrade() and method != "CONNECT":
                self._replayed_head = request.head_without_upgrade()
                return
            self._note_form(request, target)
            request.refusal = self._check_head(request)
            if (request.content_length or 0) > limits.max_body_bytes:
                error = body_too_large(limits.max_body_bytes)
            elif request.refusal is None:
                if b"content-encoding" in request.fields:
                    error = self._begin_unpacking(request)
            elif request.needs_continue or method == "CONNECT":
                error = request.refusal
        if error is not None:
            self.refuse(error)

    def on_body(self, piece: bytes) -> None:
        if self.stopped:
            return
        request = self._current
        request.body_bytes += len(piece)
        if request.body_bytes > self._limits.max_body_bytes:
            self.refuse(body_too_large(self._limits.max_body_bytes))
        elif request.refusal is None:
            if request.unpacking is not None:
                self._unpack(request, request.unpacking, piece)
            else:
                request.add(piece)

    def on_message_complete(self) -> None:
        if self.stopped or self._replayed_head:
            return
        request = self._current
        if request.unpacking is not None:
            try:
                request.unpacking.check_end()
            except CorruptBodyError as error:
                self.refuse(bad_request(str(error)))
                return
            request.unpacking = None  # its window, up to 8 MB
        self.ready.append(request)
        self.request = None
        self._current = NO_REQUEST  # an idle connection must not keep its last body

    def _note_form(self, request: HttpRequest, target: bytes) -> None:
        """Know heads like that of the request, which has this target, by their form."""
        if request.close:
            self._known = None
        elif self._begun_with and self.noted_in_vain < MOST_IN_VAIN:
            self.noted_in_vain += 1
            self._known = known_request(request, self._begun_with, target, self._header)
        self._begun_with = b""
        self._header = []

    def _begin_unpacking(self, request: HttpRequest) -> HttpError | None:
        named = map(bytes.strip, request.fields[b"content-encoding"].lower().split(b","))
        encoding = b", ".join(name for name in named if name not in (b"", IDENTITY))
        if not request.has_body or not encoding:
            return None
        if not is_known(encoding):
            return unsupported_encoding(encoding.decode("latin-1"), ENCODINGS)
        request.unpacking = Unpacking(encoding, self._limits.max_body_bytes)
        return None

    def _unpack(self, request: HttpRequest, unpacking: Unpacking, piece: bytes) -> None:
        try:
            unpacked = unpacking.feed(piece)
        except CorruptBodyError as error:
            self.refuse(bad_request(str(error)))
            return
        if unpacking.is_over_limit:
            self.refuse(body_too_large(self._limits.max_body_bytes))
        elif unpacked:
            request.add(unpacked)

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """An offer to upgrade may be ignored (RFC 9110, section 7.8), but the parser then leaves the body unread: it is
        given the head again, without the offer."""
        head, self._replayed_head = self._replayed_head, b""
        self.request = None
        self._parser = HttpRequestParser(self)
        self.feed(head + rest)
