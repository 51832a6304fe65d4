"""Bodies that come compressed, unpacked while they arrive: never more of one than is allowed, and in no more memory."""

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import backports.zstd as zstd

IDENTITY = b"identity"
ENCODINGS = "gzip, deflate, zstd"
# Of gzip and zstd, one behind the other, as programs write them that pack in parallel (RFC 1952, 2.2; RFC 8878, 3).
# Each costs 20 to 140 us, however little is in it.
MAX_MEMBERS = 64
# What came unpacks to so many times as much at most, beyond the first MiB: JSON and text do to 3 to 20 times, what was
# made to fill memory to 1,000 times and more.
MOST_RATIO = 100
FREE_BYTES = 1 << 20
_ZSTD_WINDOW_LOG = 23  # 8 MB, the most that HTTP allows (RFC 9659, section 3)
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class CorruptBodyError(Exception):
    """The body is not what its Content-Encoding says; the message names the encoding."""


class Unpacked(Protocol):
    """What a library unpacks with. eof: the end of the compressed data has come. unused_data: what came behind it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Unpacking:
    """One body. size_bytes: unpacked so far."""

    __slots__ = (
        "_encoding",
        "_held",
        "_library",
        "_limit_bytes",
        "_make",
        "_members",
        "_most_bytes",
        "_packed_bytes",
        "size_bytes",
    )

    def __init__(self, encoding: bytes, most_bytes: int) -> None:
        """encoding: of ENCODINGS. most_bytes: how much may come of it."""
        self.size_bytes = 0
        self._encoding = encoding.decode()
        self._limit_bytes = most_bytes
        self._most_bytes = 0  # of what has come
        self._packed_bytes = 0
        self._make = _MAKERS[encoding]
        self._members = 1 if encoding == b"deflate" else MAX_MEMBERS  # that may still come
        self._library: Unpacked | None = None
        self._held = b""  # too little to tell by what it is to be unpacked

    @property
    def is_over_limit(self) -> bool:
        return self.size_bytes > self._most_bytes

    def feed(self, data: bytes) -> bytes:
        """Unpack what has come; stops at the first byte over the limit. Raises CorruptBodyError."""
        pieces = []
        self._packed_bytes += len(data)
        self._most_bytes = min(self._limit_bytes, max(FREE_BYTES, MOST_RATIO * self._packed_bytes))
        while data and not self.is_over_limit:
            library = self._library
            if library is None or library.eof:
                data = self._held + data
                if len(data) < 2:
                    self._held = data
                    break
                self._held = b""
                library = self._library = self._next_member(data)
            try:
                unpacked = library.decompress(data, self._most_bytes + 1 - self.size_bytes)
            except (zlib.error, zstd.ZstdError, EOFError):
                raise CorruptBodyError(f"The body is not valid {self._encoding}.") from None
            self.size_bytes += len(unpacked)
            pieces.append(unpacked)
            data = library.unused_data
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_end(self) -> None:
        """Called when all of the body has come. Raises CorruptBodyError."""
        if self._library is None or not self._library.eof or self._held:
            raise CorruptBodyError(f"The body ends before its {self._encoding} data does.")

    def _next_member(self, start: bytes) -> Unpacked:
        """Raises CorruptBodyError."""
        if not self._members:
            raise CorruptBodyError(f"The body goes on behind the end of its {self._encoding} data.")
        self._members -= 1
        return self._make(start)


def is_known(encoding: bytes) -> bool:
    return encoding in _MAKERS


def _inflate(start: bytes) -> Unpacked:
    """`deflate` is zlib's format by the standard, and plain deflate data from clients that do without its frame."""
    framed = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0
    return zlib.decompressobj(_ZLIB_BITS if framed else _RAW_BITS)


def _gunzip(start: bytes) -> Unpacked:
    return zlib.decompressobj(_GZIP_BITS)


def _unzstd(start: bytes) -> Unpacked:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_MAKERS: dict[bytes, Callable[[bytes], Unpacked]] = {
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _inflate,
    b"zstd": _unzstd,
}
