"""One thing that is sent over a connection, and what the standards say of it."""

from dataclasses import dataclass
from enum import Enum, auto

MARK = b"@@"  # in a case's bytes: its number, by which servers behind a proxy tell whose request it is
HOST = b"Host: h\r\n"


class Rule(Enum):
    REFUSED = auto()  # nothing of it may reach a server as a request (a MUST of RFC 9110 or 9112)
    READ = auto()  # it is so many requests with these bodies
    EITHER = auto()  # refused, or read as these bodies and in no other way
    FREE = auto()  # the standards leave it open: what differs from the server alone is counted


REFUSED, READ, EITHER, FREE = Rule


@dataclass(frozen=True, slots=True)
class Case:
    """raw: with MARK. bodies: of the requests that it is, where the rule names them."""

    family: str
    name: str
    raw: bytes
    rule: Rule
    bodies: tuple[bytes, ...] = ()

    def sent(self, number: int) -> bytes:
        return self.raw.replace(MARK, b"%05d" % number)


def request(
    lines: bytes = b"", body: bytes = b"", *, method: bytes = b"POST", target: bytes = b"/v1/t@@", host: bytes = HOST
) -> bytes:
    """lines: of the head, each with its end."""
    return b"%b %b HTTP/1.1\r\n%bX-Case: @@\r\n%b\r\n%b" % (method, target, host, lines, body)


def counted(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = b"GET /v1/smuggled@@ HTTP/1.1\r\nHost: h\r\nX-Case: @@\r\n\r\n"
