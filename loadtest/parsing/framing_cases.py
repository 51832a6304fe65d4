"""Where a body ends: Content-Length, Transfer-Encoding, both, and chunks (RFC 9112, sections 6 and 7)."""

from collections.abc import Iterator

from dualmap.loadtest.parsing.case import (
    CHUNKED,
    EITHER,
    FREE,
    HELLO,
    READ,
    REFUSED,
    SMUGGLED,
    Case,
    Rule,
    counted,
    request,
)

LENGTHS: tuple[tuple[bytes, Rule], ...] = (
    *((value, READ) for value in (b"5", b"05", b"0000000005", b"5 ", b" 5", b"\t5", b"5\t")),
    *((value, REFUSED) for value in (b"+5", b"-5", b"-0", b"0x5", b"5.0", b"5e0", b"", b"five", b"5;", b"5 5", b"5,6")),
    *(
        (value, REFUSED)
        for value in (b"5\x0b", b"\x0b5", b"5\0", b"\xd9\xa5", b"5_0", b"'5'", b'"5"', b"5, 6", b"6, 5")
    ),
    *((value, REFUSED) for value in (b"9" * 19, b"18446744073709551621", b"9" * 400)),
    *((value, EITHER) for value in (b"5,5", b"5, 5", b"5 , 5", b"5,5,5")),
    *((value, FREE) for value in (b",5", b"5,", b"05,5")),
)
CODINGS: tuple[tuple[bytes, Rule], ...] = (
    *(
        (value, READ)
        for value in (b"chunked", b"Chunked", b"CHUNKED", b"chunKed", b"  chunked", b"\tchunked", b"chunked ")
    ),
    *(
        (value, REFUSED)
        for value in (b"xchunked", b"chunkedx", b"chunk", b"chunked chunked", b"\x0bchunked", b"chunked\x0b")
    ),
    *(
        (value, REFUSED)
        for value in (b"\0chunked", b"chunked\0", b'"chunked"', b"'chunked'", b"cow", b"gzip", b"\xffchunked")
    ),
    *(
        (value, REFUSED)
        for value in (b"chunked, gzip", b"chunked, identity", b"chunked, cow", b"chunked\x0c", b"[chunked]")
    ),
    *((value, EITHER) for value in (b"chunked, chunked", b"identity, chunked", b"cow, chunked", b"gzip, chunked")),
    *(
        (value, EITHER)
        for value in (b"chunked;q=1", b",chunked", b"chunked,", b", ,chunked", b"chunked\t", b"identity,chunked")
    ),
    *((value, REFUSED) for value in (b"", b"identity", b"chunked\x7f", b"ch\tunked", b"trailers")),
)
FIELDS: tuple[tuple[str, bytes, Rule], ...] = (
    ("space before the colon", b"Transfer-Encoding : chunked\r\n", REFUSED),
    ("tab before the colon", b"Transfer-Encoding\t: chunked\r\n", REFUSED),
    ("folded", b"Transfer-Encoding:\r\n chunked\r\n", EITHER),
    ("folded by a tab", b"Transfer-Encoding:\r\n\tchunked\r\n", EITHER),
    ("folded in the middle", b"Transfer-Encoding: chunked\r\n , identity\r\n", REFUSED),
    ("twice", CHUNKED + CHUNKED, EITHER),
    ("chunked then identity", CHUNKED + b"Transfer-Encoding: identity\r\n", REFUSED),
    ("identity then chunked", b"Transfer-Encoding: identity\r\n" + CHUNKED, EITHER),
    ("chunked then cow", CHUNKED + b"Transfer-Encoding: cow\r\n", REFUSED),
    ("cow then chunked", b"Transfer-Encoding: cow\r\n" + CHUNKED, EITHER),
    ("behind a bare LF", b"X: y\nTransfer-Encoding: chunked\r\n", EITHER),
    ("behind a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n", FREE),
    ("with an underscore", b"Transfer_Encoding: chunked\r\n", FREE),
    ("without the hyphen", b"TransferEncoding: chunked\r\n", FREE),
    ("with a NUL in the name", b"Transfer-Encoding\0: chunked\r\n", REFUSED),
    (
        "with a letter of two bytes",
        "Transfer-\N{LATIN SMALL LETTER E WITH ACUTE}ncoding: chunked\r\n".encode(),
        REFUSED,
    ),
    ("behind a space", b" Transfer-Encoding: chunked\r\n", FREE),
    ("no space", b"Transfer-Encoding:chunked\r\n", EITHER),
)
SIZES: tuple[tuple[bytes, Rule], ...] = (
    *((size, READ) for size in (b"5", b"05", b"0000000000000005", b"5;a", b"5;a=b", b'5;a="x"', b'5;a="x;y"')),
    *((size, READ) for size in (b"5;a=b;c", b"5;" + b"a" * 200)),
    *(
        (size, FREE)
        for size in (
            b"5 ",
            b"5\t",
            b"5 ;a",
            b"5; a",
            b"5;a =b",
            b"5;=",
            b";",
            b"5;",
            b"5;;",
            b"5;a=\xff",
            b"0" * 40 + b"5",
        )
    ),
    *(
        (size, REFUSED)
        for size in (b" 5", b"0x5", b"+5", b"-5", b"5g", b"g", b"", b"5.", b"5,5", b"5 5", b"\xd9\xa5", b"5\0")
    ),
    *((size, REFUSED) for size in (b"F" * 16, b"F" * 17, b"1" + b"0" * 15 + b"5", b"1" + b"0" * 16 + b"5", b"F" * 40)),
    *((size, REFUSED) for size in (b"5;a=\0", b"5;a\rb", b"5\x0b", b"5_", b"0b5", b"5h")),
)


def framing_cases() -> Iterator[Case]:
    yield from _lengths()
    yield from _codings()
    yield from _chunks()


def _lengths() -> Iterator[Case]:
    for value, rule in LENGTHS:
        yield Case("length", repr(value[:24]), request(b"Content-Length: %b\r\n" % value, b"hello"), rule, (b"hello",))
        raw = request(b"Content-Length: %b\r\n" % value, b"hello" + SMUGGLED)
        bodies = (b"hello", b"")
        yield Case(
            "length", f"{value[:24]!r}, another behind it", raw, rule if rule is not REFUSED else REFUSED, bodies
        )
    for first, second, rule in (
        (b"5", b"5", EITHER),
        (b"5", b"6", REFUSED),
        (b"6", b"5", REFUSED),
        (b"5", b"05", EITHER),
    ):
        lines = b"Content-Length: %b\r\nX: y\r\ncontent-length: %b\r\n" % (first, second)
        yield Case("length", f"twice: {first!r}, {second!r}", request(lines, b"hello"), rule, (b"hello",))
    for method in (b"GET", b"DELETE", b"OPTIONS", b"PUT", b"PATCH"):
        raw = request(counted(b"hello"), b"hello" + SMUGGLED, method=method)
        yield Case("length", f"{method.decode()} with a body", raw, EITHER, (b"hello", b""))
        raw = request(CHUNKED, HELLO + SMUGGLED, method=method)
        yield Case("length", f"{method.decode()} with chunks", raw, EITHER, (b"hello", b""))
    yield Case("length", "none, and a body", request(b"", SMUGGLED), READ, (b"", b""))
    yield Case("length", "0, and a body", request(b"Content-Length: 0\r\n", SMUGGLED), READ, (b"", b""))
    yield Case("length", "space before the colon", request(b"Content-Length : 5\r\n", b"hello"), REFUSED)
    yield Case("length", "tab before the colon", request(b"Content-Length\t: 5\r\n", b"hello"), REFUSED)
    yield Case("length", "folded", request(b"Content-Length:\r\n 5\r\n", b"hello"), EITHER, (b"hello",))
    yield Case("length", "with an underscore", request(b"Content_Length: 47\r\n", SMUGGLED), FREE)


def _codings() -> Iterator[Case]:
    fields = [(repr(value), b"Transfer-Encoding: %b\r\n" % value, rule) for value, rule in CODINGS]
    for name, field, rule in (*fields, *FIELDS):
        yield Case("coding", name, request(field, HELLO), rule, (b"hello",))
        body = HELLO + SMUGGLED  # both in one by length, two by chunks
        both = Case("both", f"CL.TE {name}", request(counted(body) + field, body), EITHER, (b"hello", b""))
        yield both if rule in (READ, EITHER) else Case(both.family, both.name, both.raw, rule)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)  # one by chunks, more by length
        length = b"Content-Length: %d\r\n" % (body.index(b"\n") + 1)
        both = Case("both", f"TE.CL {name}", request(field + length, body), EITHER, (SMUGGLED,))
        yield both if rule in (READ, EITHER) else Case(both.family, both.name, both.raw, rule)
    old = request(CHUNKED, HELLO).replace(b"HTTP/1.1", b"HTTP/1.0")
    yield Case("coding", "chunked in HTTP/1.0", old, EITHER, (b"hello",))
    old = request(CHUNKED + counted(HELLO), HELLO).replace(b"HTTP/1.1", b"HTTP/1.0")
    yield Case("both", "chunked in HTTP/1.0", old, EITHER, (b"hello",))
    yield Case("coding", "TE alone", request(b"TE: chunked\r\n", SMUGGLED), READ, (b"", b""))
    for named in (b"Transfer-Encoding", b"Content-Length", b"Host"):
        lines = b"Connection: close, %b\r\n" % named
        yield Case(
            "coding", f"{named.decode()} named by Connection", request(CHUNKED + lines, HELLO), EITHER, (b"hello",)
        )
        raw = request(counted(b"hello") + lines, b"hello")
        yield Case("length", f"{named.decode()} named by Connection", raw, EITHER, (b"hello",))


def _chunks() -> Iterator[Case]:
    def case(name: str, body: bytes, rule: Rule, *bodies: bytes) -> Case:
        return Case("chunks", name, request(CHUNKED, body), rule, bodies)

    for size, rule in SIZES:
        body = b"%b\r\nhello\r\n0\r\n\r\n" % size
        yield case(repr(size[:24]), body, rule, b"hello")
        yield case(f"{size[:24]!r}, another behind it", body + SMUGGLED, rule, b"hello", b"")
    for name, end, rule in (
        ("a bare LF behind the size", b"5\nhello\r\n0\r\n\r\n", FREE),
        ("a bare CR behind the size", b"5\rhello\r\n0\r\n\r\n", REFUSED),
        ("two CR behind the size", b"5\r\r\nhello\r\n0\r\n\r\n", REFUSED),
        ("a bare LF behind an extension", b"5;a\nhello\r\n0\r\n\r\n", FREE),
        ("a bare LF behind the data", b"5\r\nhello\n0\r\n\r\n", FREE),
        ("a bare CR behind the data", b"5\r\nhello\r0\r\n\r\n", REFUSED),
        ("two letters behind the data", b"5\r\nhelloXX0\r\n\r\n", REFUSED),
        ("nothing behind the data", b"5\r\nhello0\r\n\r\n", REFUSED),
        ("more data than it says", b"4\r\nhello\r\n0\r\n\r\n", REFUSED),
        ("bare LFs at the end", b"5\r\nhello\r\n0\n\n", FREE),
        ("a bare LF last", b"5\r\nhello\r\n0\r\n\n", FREE),
        ("the end with an extension", b"5\r\nhello\r\n0;a=b\r\n\r\n", READ),
        ("the end with zeros", b"5\r\nhello\r\n000\r\n\r\n", READ),
        ("the end negative", b"5\r\nhello\r\n-0\r\n\r\n", REFUSED),
        ("the end in hex", b"5\r\nhello\r\n0x0\r\n\r\n", REFUSED),
        ("the end with a space", b"5\r\nhello\r\n0 \r\n\r\n", FREE),
        ("a trailer", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", READ),
        ("many trailers", b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 50 + b"\r\n", READ),
        ("a trailer of a length", b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n", EITHER),
        ("a trailer of a coding", b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", EITHER),
        ("a trailer of a host", b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n", EITHER),
        ("a trailer without a colon", b"5\r\nhello\r\n0\r\nXy\r\n\r\n", REFUSED),
        ("a trailer with a space before the colon", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", REFUSED),
        ("a folded trailer", b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", EITHER),
        (
            "a trailer that is a request",
            b"5\r\nhello\r\n0\r\nGET /v1/smuggled@@ HTTP/1.1\r\nX-Case: @@\r\n\r\n",
            REFUSED,
        ),
        ("a trailer with a NUL", b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n", REFUSED),
        ("upper case", b"A\r\n0123456789\r\n0\r\n\r\n", READ),
        ("many of a byte", b"1\r\na\r\n" * 200 + b"0\r\n\r\n", READ),
        ("an extension of 10 KiB", b"5;" + b"a" * 10240 + b"\r\nhello\r\n0\r\n\r\n", EITHER),
        ("an extension of 100 KiB", b"5;" + b"a" * 102400 + b"\r\nhello\r\n0\r\n\r\n", EITHER),
        ("a quoted line end", b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n', REFUSED),
        ("no end", b"5\r\nhello\r\n", FREE),
    ):
        body = b"0123456789" if name == "upper case" else b"a" * 200 if name == "many of a byte" else b"hello"
        yield case(name, end, rule, body)
        yield case(f"{name}, another behind it", end + SMUGGLED, rule if name != "no end" else REFUSED, body, b"")
