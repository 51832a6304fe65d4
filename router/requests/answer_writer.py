"""The answer to one request in the bytes that its client gets: the one place that frames answers of instances."""

from collections.abc import Callable

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.lone_chunk import framed
from dualmap.router.http.openai_errors import HttpError, error_response

LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
COMMENT = b": keep-alive\n\n"
BEGINNING = b"HTTP/1.1 "  # of every answer


class AnswerWriter:
    """write: to the client's connection; each call is a system call, so that what belongs together goes in one.
    is_open: the client has the head of a stream, with comments, and nothing of the answer yet."""

    __slots__ = (
        "_before_last",
        "_begun",
        "_chunked",
        "_http",
        "_last",
        "_request_id",
        "_sent_ahead",
        "_takes_events",
        "_write",
        "is_open",
    )

    def __init__(self, write: Callable[[bytes], None], http: HttpRequest, request_id: bytes) -> None:
        self._write = write
        self._http = http
        self._request_id = request_id
        self._begun = False
        self._sent_ahead = 0  # bytes of BEGINNING
        self._chunked = False
        self._takes_events = False
        self._last = b""
        self._before_last = b""
        self.is_open = False

    @property
    def tail(self) -> bytes:
        """The last that was written of the body. The `usage` of a stream stands in its last event but one."""
        return self._before_last + self._last

    def begin(self, head: AnswerHead, lines: bytes, body: bytes, complete: bool) -> None:
        """Write the head with the first of the body, all of it if complete. lines: more of the head, each with its
        end. A stream that is open has its head already."""
        if self.is_open:
            self.is_open = False
            self.go_on(body, complete)
            return
        http = self._http
        self._begun = True
        if head.content_length is not None:
            framing = b"content-length: %d\r\n" % head.content_length
        elif head.has_body and not http.http10:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
        if head.event_stream:
            self._takes_events = not head.encoded and (self._chunked or http.http10)
        self._last = body
        if self._chunked:
            body = framed(body) if body else b""
            if complete:
                body += LAST_CHUNK
        status_line = head.status_line[self._sent_ahead :] if self._sent_ahead else head.status_line
        self._write(b"".join((status_line, *head.lines, framing, self._end_of_head(lines), body)))

    def keep_open(self, lines: bytes) -> None:
        """Write a comment to a client who waits for a stream, and before the first one the head. lines: as in begin."""
        pieces = []
        if not self.is_open:
            self.is_open = self._takes_events = self._begun = True
            self._chunked = not self._http.http10
            pieces.append(STREAM_HEAD[self._sent_ahead :])
            if self._chunked:
                pieces.append(b"transfer-encoding: chunked\r\n")
            pieces.append(self._end_of_head(lines))
        pieces.append(framed(COMMENT) if self._chunked else COMMENT)
        self._write(b"".join(pieces))

    def comment(self, comment: bytes = COMMENT) -> None:
        """Write a comment between two events of a stream that has begun. It is none of the tail, which says how the
        answer ended."""
        self._write(framed(comment) if self._chunked else comment)

    def _end_of_head(self, lines: bytes) -> bytes:
        close = b"connection: close\r\n" if self._http.close else b""
        return b"%b%b%bx-request-id: %b\r\n\r\n" % (lines, self._http.answer_lines, close, self._request_id)

    def go_on(self, body: bytes, complete: bool) -> None:
        """Write some more of the body, which may be empty if complete."""
        if body:
            self._before_last = self._last
            self._last = body
        if not self._chunked:
            self._write(body)
        elif body:
            self._write(framed(body) + LAST_CHUNK if complete else framed(body))
        else:
            self._write(LAST_CHUNK)

    def probe(self) -> None:
        """Send one byte of what comes next, whatever that is: of an answer's beginning, or a zero before the size of a
        chunk."""
        if self._chunked:
            self._write(b"0")
        elif not self._begun and self._sent_ahead < len(BEGINNING):
            self._write(BEGINNING[self._sent_ahead : self._sent_ahead + 1])
            self._sent_ahead += 1

    def whole_error(self, error: HttpError) -> bytes:
        """Return what is left to send of an error that is all of the answer."""
        response = error_response(
            error, request_id=self._request_id, close=self._http.close, shape=self._http.error_shape
        )
        return response[self._sent_ahead :]

    def end_with(self, events: bytes) -> bool:
        """End the answer midway with events of an error, where a client can tell them from the answer: returns
        whether."""
        if not self._takes_events:
            return False
        if self._last and not self._last.endswith(b"\n"):
            events = b"\n\n" + events  # the event that was cut off must not swallow the error
        self._write(framed(events) + LAST_CHUNK if self._chunked else events)
        return True
