"""The head of an instance's answer, as far as it is relayed."""

from http import HTTPStatus

from dualmap.router.http.hop_by_hop import HOP_BY_HOP, named_by_connection, without_fields

# Read here. Content-type, content-encoding and location are relayed, the others not: framing is done anew, and the
# gateway sets its own headers.
NOTED = HOP_BY_HOP | {
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"location",
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
    connection (until_close) or is server-sent events (event_stream). encoded: the body is compressed, and nothing can
    be read of it. html: it is a page, for people. bodiless: the answer to HEAD, which has no body whatever it says.
    keep_alive: the connection can be used again."""

    __slots__ = (
        "_connection",
        "_location",
        "bodiless",
        "chunked",
        "content_length",
        "encoded",
        "event_stream",
        "html",
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
        self.encoded = False
        self.event_stream = False
        self.html = False
        self.bodiless = False
        self.keep_alive = False
        self.until_close = False
        self._connection = b""
        self._location = b""

    @property
    def status_line(self) -> bytes:
        return status_line(self.status)

    @property
    def has_body(self) -> bool:
        return self.content_length != 0 and self.status not in _NO_BODY_STATUSES and not self.bodiless

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
            self.html = value[:9].lower() == b"text/html"
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif name == b"content-encoding":
            self.encoded = value.lower() != b"identity"
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif name == b"location":
            self._location = value

    def complete(self, status: int, keep_alive: bool, authority: bytes = b"") -> None:
        """authority: host and port of the instance, as requests to it name them; empty where it is not its answer."""
        self.status = status
        self.until_close = self.content_length is None and not self.chunked and status not in _NO_BODY_STATUSES
        self.keep_alive = keep_alive and not self.until_close
        if self.event_stream and self.content_length and not self.encoded:
            self.content_length = None  # what is relayed of it may be shorter
        if self._location:
            self.lines.append(b"location: %b\r\n" % _without_authority(self._location, authority))
        if self._connection and (names := named_by_connection(self._connection)):
            self.lines = without_fields(self.lines, names)


def _without_authority(location: bytes, authority: bytes) -> bytes:
    """Where a redirect leads, as the client can follow it: within the instance, a path, which is the gateway's, too."""
    scheme, slashes, rest = location.partition(b"//")
    host, _, path = rest.partition(b"/")
    if slashes and scheme.lower() in (b"http:", b"https:", b"") and host.lower() == authority.lower():
        return b"/" + path
    return location
