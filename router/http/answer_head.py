"""The head of an instance's answer, as far as it is relayed."""

from http import HTTPStatus

from dualmap.router.http.hop_by_hop import HOP_BY_HOP, named_by_connection, without_fields

# Read here. Except for content-type they are not relayed: framing is done anew, and the gateway sets its own headers.
NOTED = HOP_BY_HOP | {
    b"content-length",
    b"content-type",
    b"x-dualmap-instance",
    b"x-dualmap-queue-ms",
    b"x-request-id",
}
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_NO_BODY_STATUSES = (204, 304)


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class AnswerHead:
    """lines: header lines to relay. content_length: as it is relayed; None where the body is chunked, ends with the
    connection (until_close) or is server-sent events (event_stream). keep_alive: the connection can be used again."""

    __slots__ = (
        "_connection",
        "chunked",
        "content_length",
        "event_stream",
        "keep_alive",
        "lines",
        "status",
        "until_close",
    )

    def __init__(self) -> None:
        self.status = 0
        self.lines: list[bytes] = []
        self.content_length: int | None = None
        self.chunked = False
        self.event_stream = False
        self.keep_alive = False
        self.until_close = False
        self._connection = b""

    @property
    def status_line(self) -> bytes:
        return status_line(self.status)

    @property
    def has_body(self) -> bool:
        return self.content_length != 0 and self.status not in _NO_BODY_STATUSES

    def note(self, name: bytes, value: bytes) -> None:
        """Keep a field of NOTED; name in lower case."""
        if name == b"content-length":
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            self.chunked = True
        elif name == b"connection":
            self._connection += b"," + value
        elif name == b"content-type":
            self.event_stream = value.startswith(b"text/event-stream")
            self.lines.append(b"%b: %b\r\n" % (name, value))

    def complete(self, status: int, keep_alive: bool) -> None:
        self.status = status
        self.until_close = self.content_length is None and not self.chunked and status not in _NO_BODY_STATUSES
        self.keep_alive = keep_alive and not self.until_close
        if self.event_stream and self.content_length:
            self.content_length = None  # what is relayed of it may be shorter
        if self._connection and (names := named_by_connection(self._connection)):
            self.lines = without_fields(self.lines, names)
