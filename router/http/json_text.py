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
        return _once(body[3:], body)
    if body.lstrip(_SPACE_AND_BOM)[:1] not in (b"{", b"["):
        return body
    try:  # halves of surrogate pairs stay what they are
        return _once(body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass"), body)
    except UnicodeError:
        return body


def _once(text: bytes, body: bytes) -> bytes:
    """The text, unless it is encoded once more: who reads it would take something else for it than stands here."""
    return text if json.detect_encoding(text[:4]) == "utf-8" else body
