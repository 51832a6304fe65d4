"""One request as read from a client, and what of its head matters to the gateway."""

import re

from dualmap.router.http.credentials import CREDENTIAL_FIELDS
from dualmap.router.http.hop_by_hop import HOP_BY_HOP, named_by_connection, without_fields
from dualmap.router.http.openai_errors import ErrorShape, HttpError, bad_request, error_body, expectation_failed
from dualmap.router.http.request_target import read_target
from dualmap.router.http.unpacking import Unpacking

_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")  # visible ASCII: it is logged and sent back

# Noted fields are kept by name. Those in FORWARDED_TOO go to the instance as well; all others are forwarded unread.
FORWARDED_TOO = CREDENTIAL_FIELDS | frozenset(
    {
        b"access-control-request-headers",
        b"access-control-request-method",
        b"origin",
        b"session-id",
        b"session_id",
        b"x-claude-code-session-id",
        b"x-correlation-id",
        b"x-dualmap-tenant",
        b"x-dynamo-session-id",
        b"x-session-affinity",
        b"x-session-id",
        b"x-session-token",
        b"x-user-id",
        b"x-vllm-priority",
        b"x-dualmap-timeout-ms",
        b"x-dualmap-tpot-slo-ms",
        b"x-dualmap-ttft-slo-ms",
        b"x-llm-d-slo-tpot-ms",
        b"x-llm-d-slo-ttft-ms",
    }
)
# accept-encoding is dropped: answers are read for `usage`, and may have to be ended by an error event.
NOTED = (
    HOP_BY_HOP
    | FORWARDED_TOO
    | {b"host", b"content-encoding", b"content-length", b"expect", b"x-request-id", b"accept-encoding"}
)


# Of a host and its port (RFC 3986, section 3.2; without what stands before an @, RFC 9110, section 4.2.4).
_OF_HOSTS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"
MOST_PIECES = 1024  # of a body, that are not joined
_LISTS = frozenset({b"connection", b"content-encoding", b"transfer-encoding"})  # noted whole, over several lines


class HttpRequest:
    """Filled by RequestReader while bytes arrive.

    target: as it came until the head is complete, then as instances get it. path: see RequestTarget; empty before.
    fields: the noted header fields by lower-case name, but for the content_length. forwarded: header lines for the
    instance, in order. Neither is changed once the head is complete: requests with like heads share them.
    content_length: None where the body is chunked or there is none. joined_pieces: so many of the first pieces are
    joined from others. unparsed_bytes: received of a head that is not complete. unpacking: of a body that comes
    compressed, until it is whole. refusal: it will be answered with this error. error_shape: of its errors.
    answer_lines: more lines of its answer's head, whoever gives it, each with its end. close: the connection ends after
    its answer. api: what the service took its head for, and it alone knows.
    """

    __slots__ = (
        "answer_lines",
        "api",
        "begun_at",
        "body_bytes",
        "body_pieces",
        "close",
        "content_length",
        "error_shape",
        "fields",
        "forwarded",
        "has_body",
        "head_complete",
        "http10",
        "joined_pieces",
        "method",
        "needs_continue",
        "path",
        "refusal",
        "repeated_host",
        "target",
        "unpacking",
        "unparsed_bytes",
    )

    def __init__(self, begun_at: float) -> None:
        self.begun_at = begun_at
        self.method = ""
        self.target = b""
        self.path = ""
        self.http10 = False
        self.fields: dict[bytes, bytes] = {}
        self.forwarded: list[bytes] = []
        self.unparsed_bytes = 0
        self.head_complete = False
        self.has_body = False
        self.content_length: int | None = None
        self.body_pieces: list[bytes] = []
        self.body_bytes = 0
        self.joined_pieces = 0
        self.needs_continue = False
        self.repeated_host = False
        self.refusal: HttpError | None = None
        self.error_shape: ErrorShape = error_body
        self.answer_lines = b""
        self.unpacking: Unpacking | None = None
        self.close = False
        self.api: object = None

    def add(self, piece: bytes) -> None:
        """Some more of the body. Tiny pieces are joined: each alone takes the memory of dozens of bytes."""
        pieces = self.body_pieces
        pieces.append(piece)
        if len(pieces) > self.joined_pieces + MOST_PIECES:
            pieces[self.joined_pieces :] = [b"".join(pieces[self.joined_pieces :])]
            self.joined_pieces += 1

    @property
    def body(self) -> bytes:
        pieces = self.body_pieces
        if len(pieces) > 1:
            pieces[:] = [b"".join(pieces)]  # it is not held twice
        return pieces[0] if pieces else b""

    @property
    def head_bytes(self) -> int:
        """About the size of the head as it came."""
        noted_bytes = sum(len(name) + len(value) for name, value in self.fields.items())
        return len(self.target) + sum(map(len, self.forwarded)) + noted_bytes

    @property
    def client_request_id(self) -> bytes:
        """The client's x-request-id if it is short and visible ASCII, else empty."""
        value = self.fields.get(b"x-request-id")
        return value if value and _SANE_REQUEST_ID.fullmatch(value) else b""

    def note(self, name: bytes, value: bytes) -> None:
        """Keep a field of NOTED; name in lower case."""
        if name in self.fields:
            if name == b"host":
                self.repeated_host = True
            elif name in _LISTS:
                value = self.fields[name] + b"," + value
        self.fields[name] = value
        if name in FORWARDED_TOO:
            self.forwarded.append(b"%b: %b\r\n" % (name, value))

    def take_target(self, method: str, target: bytes) -> HttpError | None:
        """Returns what makes the target unacceptable, if anything does."""
        self.method = method
        read = read_target(target, method)
        if isinstance(read, HttpError):
            return read
        self.path, self.target = read
        return None

    def complete_head(self, method: str, version: str, keep_alive: bool) -> HttpError | None:
        """Draw conclusions once all headers are in. Returns what makes the head unacceptable, if anything does.

        Conflicting lengths, folded lines and bad tokens never come so far: the parser refuses them.
        """
        self.head_complete = True
        wrong_target = self.take_target(method, self.target)
        self.http10 = version == "1.0"
        self.close = not keep_alive or self.http10
        fields = self.fields
        if version != "1.1" and not self.http10:
            return bad_request(f"HTTP/{version} is not supported here.")
        if wrong_target is not None:
            return wrong_target
        host = fields.get(b"host")
        if self.repeated_host or (host is None and not self.http10):
            return bad_request("There must be exactly one Host header.")
        if host and host.translate(None, _OF_HOSTS):
            return bad_request("The Host header is no host with or without a port.")
        if b"content-length" in fields:
            self.content_length = int(fields.pop(b"content-length"))
            self.has_body = self.content_length > 0
        if b"transfer-encoding" in fields:
            self.has_body = True
            if self.http10 or fields[b"transfer-encoding"].rstrip(b" \t").lower() != b"chunked":
                return bad_request("The only Transfer-Encoding can be `chunked`, and only in HTTP/1.1.")
        if b"connection" in fields and (names := named_by_connection(fields[b"connection"])):
            self.forwarded = without_fields(self.forwarded, names)
        if b"expect" in fields and not self.http10:
            if fields[b"expect"].lower() != b"100-continue":
                return expectation_failed()
            self.needs_continue = self.has_body
        return None

    def head_without_upgrade(self) -> bytes:
        """The head again, for the parser, as if the client had not offered another protocol."""
        lines = [b"%b %b HTTP/1.%d\r\n" % (self.method.encode(), self.target, 0 if self.http10 else 1)]
        skipped = FORWARDED_TOO | {b"connection", b"upgrade"}
        lines += [b"%b: %b\r\n" % field for field in self.fields.items() if field[0] not in skipped]
        if self.close:
            lines.append(b"connection: close\r\n")
        if self.content_length is not None:
            lines.append(b"content-length: %d\r\n" % self.content_length)
        return b"".join([*lines, *self.forwarded, b"\r\n"])


NO_REQUEST = HttpRequest(0.0)  # stands where none is at hand; nothing is added to it
NO_REQUEST.head_complete = True
