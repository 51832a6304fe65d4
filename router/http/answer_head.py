"""The head of an instance's answer, as far as it is relayed."""

import re
from http import HTTPStatus

from dualmap.router.http.hop_by_hop import HOP_BY_HOP, named_by_connection, without_fields
from dualmap.router.http.instance_head import InstanceHead

# Read here. Content-type, content-encoding and location are relayed, the others not: framing is done anew, and the
# gateway sets its own headers and says itself what pages of other origins may do (CORS).
NOTED = HOP_BY_HOP | {
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
    b"access-control-allow-private-network",
    b"access-control-expose-headers",
    b"access-control-max-age",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"location",
    b"x-dualmap-instance",
    b"x-dualmap-prefill-instance",
    b"x-dualmap-queue-ms",
    b"x-request-id",
}
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
NO_CONTENT_STATUS = 204
_NO_BODY_STATUSES = (NO_CONTENT_STATUS, 304)
_URL = re.compile(rb"(https:|http:|)//(?:[^/?#@]*@)?([^/?#]*)", re.IGNORECASE)
_HERE = frozenset({b"localhost", b"127.0.0.1", b"[::1]", b"0.0.0.0"})  # as a server calls itself that is not told
_DEFAULT_PORTS = {b"http:": b":80", b"https:": b":443", b"": b":80"}


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


class AnswerHead:
    """lines: header lines to relay. content_length: as it is relayed; None where the body is chunked, ends with the
    connection (until_close) or is server-sent events (event_stream). encoded: the body is compressed, and nothing can
    be read of it. html: it is a page, for people. json: it is a single value of JSON. bodiless: the answer to HEAD,
    which has no body whatever it says. keep_alive: the connection can be used again."""

    __slots__ = (
        "_connection",
        "_location",
        "bodiless",
        "chunked",
        "content_length",
        "encoded",
        "event_stream",
        "html",
        "json",
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
        self.json = False
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
            kind = value[:17].lower()
            self.event_stream = kind == b"text/event-stream"
            self.html = kind.startswith(b"text/html")
            self.json = kind.rstrip(b"; ") == b"application/json"
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif name == b"content-encoding":
            self.encoded = value.lower() != b"identity"
            self.lines.append(b"%b: %b\r\n" % (name, value))
        elif name == b"location":
            self._location = value

    def complete(self, status: int, keep_alive: bool, to: InstanceHead | None = None) -> None:
        """to: what the request said of the instance; None where it is not its answer."""
        self.status = status
        self.until_close = self.content_length is None and not self.chunked and status not in _NO_BODY_STATUSES
        self.keep_alive = keep_alive and not self.until_close
        if status == NO_CONTENT_STATUS or (self.event_stream and self.content_length and not self.encoded):
            self.content_length = None  # there is none, or what is relayed may be shorter
        if self._location:
            location = self._location if to is None else _path_here(self._location, to)
            self.lines.append(b"location: %b\r\n" % location)
        if self._connection and (names := named_by_connection(self._connection)):
            self.lines = without_fields(self.lines, names)


def _path_here(location: bytes, to: InstanceHead) -> bytes:
    """Where a redirect leads, as the client can follow it: within the instance, a path, which is the gateway's, too,
    but for the prefix."""
    url = _URL.match(location)
    if url is not None:
        if not _is_same(url[1].lower(), url[2].lower(), to.authority.lower()):
            return location
        location = b"/" + location[url.end() :].lstrip(b"/")  # two slashes would lead to another host
    return location.removeprefix(to.prefix) if location.startswith(to.prefix + b"/") else location


def _is_same(scheme: bytes, named: bytes, authority: bytes) -> bool:
    """Whether a server calls itself so that is reached under the authority."""
    if named in (authority, authority.removesuffix(_DEFAULT_PORTS[scheme])):
        return True
    host, colon, port = named.rpartition(b":")
    return bool(colon) and host in _HERE and port == authority.rpartition(b":")[2]
