"""JSON as clients encode it -> UTF-8, as all that read it here expect it."""

import json

_BRACE = ord("{")
_SPACE_AND_BOM = b"\xfe\xff \t\r\n\0"  # byte by byte, in any of these encodings


def in_utf8(body: bytes) -> bytes:
    """A body of JSON without byte order mark, from UTF-8, UTF-16 or UTF-32, which vLLM takes, too; any other as it
    came."""
    if len(body) > 1 and body[0] == _BRACE and body[1]:  # as most are
        return body
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return body
    if encoding == "utf-8-sig":
        return body[3:]
    if body.lstrip(_SPACE_AND_BOM)[:1] not in (b"{", b"["):
        return body
    try:  # halves of surrogate pairs stay what they are
        return body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeError:
        return body
