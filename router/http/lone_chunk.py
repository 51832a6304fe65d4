"""Chunks of HTTP/1.1 (RFC 9112, section 7.1) as most are: short, and each in a read of its own."""

END = b"\r\n"
_SHORT_BYTES = 2048
SIZE_LINES = tuple(b"%x\r\n" % size for size in range(_SHORT_BYTES))
# The size line of the one chunk that is all of a read, by the read's length. Whatever else is spelled otherwise, as it
# may be: with zeros in front, in capitals, with an extension.
LINE_OF_READ = {len(line) + size + len(END): line for size, line in enumerate(SIZE_LINES) if size}


def framed(body: bytes) -> bytes:
    """A body of some bytes as one chunk."""
    size = len(body)
    return b"".join((SIZE_LINES[size] if size < _SHORT_BYTES else b"%x\r\n" % size, body, END))
