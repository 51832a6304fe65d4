"""One request as parsed from a client, and what of its head matters to the gateway."""

import re

from router.hop_by_hop import HOP_BY_HOP, named_by_connection, without_fields
from router.openai_errors import HttpError, bad_request, expectation_failed

LINE_OVERHEAD_BYTES = 4  # ": " and CRLF of a header line
_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")  # visible ASCII: it is logged and sent back

# Not forwarded as they come. accept-encoding: answers are read for `usage` and may have to be ended by an error event.
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"x-request-id", b"accept-encoding"}
_NOTED = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"x-dualmap-ttft-slo-ms",
        b"x-llm-d-slo-ttft-ms",
        b"x-request-id",
    }
)


class HttpRequest:
    """Filled by ClientConnection while bytes arrive.

    fields: the noted header fields by lower-case name. forwarded: header lines for the instance, in order.
    head_bytes: as parsed. unparsed_bytes: received of a head that is not complete.
    content_length: None where the body is chunked or there is none. refusal: it will be answered with this error.
    close: the connection ends after its answer.
    """

    __slots__ = (
        "begun_at",
        "body_bytes",
        "body_pieces",
        "close",
        "content_length",
        "fields",
        "forwarded",
        "has_body",
        "head_bytes",
        "head_complete",
        "http10",
        "method",
        "needs_continue",
        "refusal",
        "repeated_host",
        "target",
        "unparsed_bytes",
    )

    def __init__(self, begun_at: float) -> None:
        self.begun_at = begun_at
        self.method = ""
        self.target = b""
        self.http10 = False
        self.fields: dict[bytes, bytes] = {}
        self.forwarded: list[bytes] = []
        self.head_bytes = 0
        self.unparsed_bytes = 0
        self.head_complete = False
        self.has_body = False
        self.content_length: int | None = None
        self.body_pieces: list[bytes] = []
        self.body_bytes = 0
        self.needs_continue = False
        self.repeated_host = False
        self.refusal: HttpError | None = None
        self.close = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        pieces = self.body_pieces
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def client_request_id(self) -> bytes:
        """The client's x-request-id if it is short and visible ASCII, else empty."""
        value = self.fields.get(b"x-request-id", b"")
        return value if value and _SANE_REQUEST_ID.fullmatch(value) else b""

    def add_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value) + LINE_OVERHEAD_BYTES
        lower = name.lower()
        if lower in _NOTED:
            if lower == b"host" and lower in self.fields:
                self.repeated_host = True
            if lower == b"connection" and lower in self.fields:
                value = self.fields[lower] + b"," + value
            self.fields[lower] = value
        if lower not in _NOT_FORWARDED:
            self.forwarded.append(name + b": " + value + b"\r\n")

    def complete_head(self, method: str, version: str, keep_alive: bool) -> HttpError | None:
        """Draw conclusions once all headers are in. Returns what makes the head unacceptable, if anything does.

        Conflicting lengths, folded lines and bad tokens never come so far: the parser refuses them.
        """
        self.head_complete = True
        self.method = method
        self.http10 = version == "1.0"
        self.close = not keep_alive or self.http10
        fields = self.fields
        if version not in ("1.1", "1.0"):
            return bad_request(f"HTTP/{version} is not supported here.")
        if self.repeated_host or (b"host" not in fields and not self.http10):
            return bad_request("There must be exactly one Host header.")
        if b"content-length" in fields:
            self.content_length = int(fields[b"content-length"])
            self.has_body = self.content_length > 0
        if b"transfer-encoding" in fields:
            self.has_body = True
            if self.http10 or fields[b"transfer-encoding"].lower() != b"chunked":
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
        lines = [self.method.encode() + b" " + self.target + (b" HTTP/1.0\r\n" if self.http10 else b" HTTP/1.1\r\n")]
        lines += [name + b": " + value + b"\r\n" for name, value in self.fields.items() if name != b"connection"]
        if self.close:
            lines.append(b"connection: close\r\n")
        return b"".join([*lines, *self.forwarded, b"\r\n"])
