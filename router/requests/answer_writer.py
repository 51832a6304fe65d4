"""The answer to one request in the bytes that its client gets: the one place that frames answers of instances."""

from collections.abc import Callable

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError, error_events, error_response

LAST_CHUNK = b"0\r\n\r\n"


class AnswerWriter:
    """write: to the client's connection; each call is a system call, so that what belongs together goes in one."""

    __slots__ = ("_before_last", "_chunked", "_http", "_last", "_request_id", "_takes_events", "_write")

    def __init__(self, write: Callable[[bytes], None], http: HttpRequest, request_id: bytes) -> None:
        self._write = write
        self._http = http
        self._request_id = request_id
        self._chunked = False
        self._takes_events = False
        self._last = b""
        self._before_last = b""

    @property
    def tail(self) -> bytes:
        """The last that was written of the body. The `usage` of a stream stands in its last event but one."""
        return self._before_last + self._last

    def begin(self, head: AnswerHead, lines: bytes, body: bytes, complete: bool) -> None:
        """Write the head with the first of the body, all of it if complete. lines: more of the head, each with its
        end."""
        http = self._http
        pieces = [head.status_line, *head.lines]
        if head.content_length is not None:
            pieces.append(b"content-length: %d\r\n" % head.content_length)
        elif head.has_body and not http.http10:
            self._chunked = True
            pieces.append(b"transfer-encoding: chunked\r\n")
        self._takes_events = head.event_stream and (self._chunked or http.http10)
        pieces.append(lines)
        if http.close:
            pieces.append(b"connection: close\r\n")
        pieces.append(b"x-request-id: %b\r\n\r\n" % self._request_id)
        if not self._chunked:
            pieces.append(body)
        else:
            if body:
                pieces.append(b"%x\r\n%b\r\n" % (len(body), body))
            if complete:
                pieces.append(LAST_CHUNK)
        self._last = body
        self._write(b"".join(pieces))

    def go_on(self, body: bytes, complete: bool) -> None:
        """Write some more of the body, which may be empty if complete."""
        if body:
            self._before_last = self._last
            self._last = body
        if not self._chunked:
            self._write(body)
        elif body:
            self._write((b"%x\r\n%b\r\n0\r\n\r\n" if complete else b"%x\r\n%b\r\n") % (len(body), body))
        else:
            self._write(LAST_CHUNK)

    def whole_error(self, error: HttpError) -> bytes:
        """Return an error that is all of the answer."""
        return error_response(error, request_id=self._request_id, close=self._http.close, shape=self._http.error_shape)

    def end_with(self, error: HttpError) -> bool:
        """End the answer midway with an error, where a client can tell the error from the answer: returns whether."""
        if not self._takes_events:
            return False
        events = error_events(error)
        if not self._last.endswith(b"\n"):
            events = b"\n\n" + events  # the event that was cut off must not swallow the error
        self._write(b"%x\r\n%b\r\n%b" % (len(events), events, LAST_CHUNK) if self._chunked else events)
        return True
