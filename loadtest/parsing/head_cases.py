"""Request lines, targets, hosts and fields (RFC 9112, sections 2, 3 and 5; RFC 9110, sections 5, 7 and 10)."""

from collections.abc import Iterator

from dualmap.loadtest.parsing.case import (
    CHUNKED,
    EITHER,
    FREE,
    HELLO,
    HOST,
    READ,
    REFUSED,
    Case,
    Rule,
    counted,
    request,
)

REST = b"Host: h\r\nX-Case: @@\r\n\r\n"
SECOND = b"GET /v1/second@@ HTTP/1.1\r\n" + REST
LINES: tuple[tuple[bytes, Rule], ...] = (
    (b"GET /v1/t@@ HTTP/1.1\r\n", READ),
    *((b"\r\n" * count + b"GET /v1/t@@ HTTP/1.1\r\n", READ) for count in (1, 2)),
    (b"\nGET /v1/t@@ HTTP/1.1\r\n", EITHER),
    (b"GET /v1/t@@ HTTP/1.1\n", EITHER),
    *((b"GET /v1/t@@ %b\r\n" % version, FREE) for version in (b"HTTP/1.2", b"HTTP/1.9", b"HTTP/1.0")),
    *((b"GET /v1/t@@ %b\r\n" % version, REFUSED) for version in (b"HTTP/1", b"HTTP/11", b"HTTP/1.1.1", b"HTTP/01.1")),
    *((b"GET /v1/t@@ %b\r\n" % version, REFUSED) for version in (b"HTTP/1.10", b"HTTP/x.1", b"HTTP/1,1", b"HTTPS/1.1")),
    *(
        (b"GET /v1/t@@ %b\r\n" % version, REFUSED)
        for version in (b"http/1.1", b"HTTP /1.1", b"HTTP/ 1.1", b"HTTP/1. 1")
    ),
    *((b"GET /v1/t@@ %b\r\n" % version, REFUSED) for version in (b"HTTP/1.1x", b"HTTP/1.1\0", b"ICE/1.0", b"RTSP/1.0")),
    *((b"GET /v1/t@@ %b\r\n" % version, REFUSED) for version in (b"HTTP/3.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/-1.1")),
    *((b"GET /v1/t@@%b\r\n" % rest, REFUSED) for rest in (b"", b" ", b"\rHTTP/1.1")),
    *(
        (b"GET%b/v1/t@@%bHTTP/1.1\r\n" % gaps, EITHER)
        for gaps in ((b"  ", b" "), (b" ", b"  "), (b"\t", b" "), (b" ", b"\t"))
    ),
    *((b"GET%b/v1/t@@%bHTTP/1.1\r\n" % gaps, EITHER) for gaps in ((b"\x0b", b" "), (b"\x0c", b" "), (b" ", b"\x0b"))),
    (b"GET /v1/t@@ HTTP/1.1 \r\n", EITHER),
    (b" GET /v1/t@@ HTTP/1.1\r\n", REFUSED),
    (b"GET /v1/t@@ HTTP/1.1\r\r\n", REFUSED),
    (b"GET /v1/t@@ HTTP/1.1\rX: y\r\n", REFUSED),
    *(
        (b"%b /v1/t@@ HTTP/1.1\r\n" % method, REFUSED)
        for method in (b"", b"G@T", b"G\0T", b"G(T", b"G\xffT", b"GET,", b"G/T")
    ),
    *(
        (b"%b /v1/t@@ HTTP/1.1\r\n" % method, FREE)
        for method in (b"get", b"Get", b"FOO", b"TRACE", b"M-SEARCH", b"PROPFIND")
    ),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", REFUSED),
    (b"SSH-2.0-OpenSSH_9.6\r\n", REFUSED),
    (b"\0\0\0\0\0\r\n", REFUSED),
)
TARGETS: tuple[tuple[bytes, Rule], ...] = (
    *(
        (target, READ)
        for target in (b"/v1/t@@?a=b", b"/v1/t@@?a=%20&b=/../c", b"/v1/t@@?", b"/v1/t@@??", b"/v1/t@@/a%20b")
    ),
    *(
        (target, READ)
        for target in (b"http://h/v1/t@@", b"HTTP://h/v1/t@@", b"http://h:80/v1/t@@?x", b"https://h/v1/t@@")
    ),
    *(
        (target, FREE)
        for target in (b"http://other/v1/t@@", b"http://u:p@h/v1/t@@", b"http://h", b"http://h?@@", b"ftp://h/v1/t@@")
    ),
    *(
        (target, REFUSED)
        for target in (b"v1/t@@", b"*", b"h:80", b"http:/v1/t@@", b"http:///v1/t@@", b"://h/v1/t@@", b"?@@")
    ),
    *(
        (target, FREE)
        for target in (b"//v1/t@@", b"/v1//t@@", b"/v1/./t@@", b"/v1/x/../t@@", b"/v1/../../v1/t@@", b"/v1/t@@/")
    ),
    *(
        (target, FREE)
        for target in (b"/v1/%74@@", b"/v1/%2e%2e/v1/t@@", b"/v1/x%2f..%2ft@@", b"/v1%2ft@@", b"/v1/t@@;a=b")
    ),
    *(
        (target, FREE)
        for target in (b"/v1/%2574@@", b"/v1/%c0%af/t@@", b"/v1/%ff@@", b"/v1/%u0074@@", b"/v1/t@@%3fa=b")
    ),
    *(
        (target, EITHER)
        for target in (
            b"/v1/t@@#a",
            b"/v1/t@@?a#b",
            b"/v1/\\t@@",
            b"/v1/t@@?\\",
            b"/v1/t@@|",
            b"/v1/t@@{}",
            b'/v1/t@@"',
        )
    ),
    *(
        (target, EITHER)
        for target in (b"/v1/t@@<>", b"/v1/t@@^`", b"/v1/\xc3\xa9@@", b"/v1/t@@?\xc3\xa9", b"/v1/\xff@@")
    ),
    *(
        (target, FREE)
        for target in (b"/v1/t@@%", b"/v1/t@@%2", b"/v1/t@@%zz", b"/v1/t@@%00", b"/v1/t@@%0d%0aX:y", b"/v1/t@@%5c")
    ),
    *(
        (target, REFUSED)
        for target in (b"/v1/\0t@@", b"/v1/t@@\x01", b"/v1/t@@\x7f", b"/v1/\rt@@", b"/v1/a b@@", b"/v1/t@@?a b")
    ),
    *((b"/v1/t@@?" + b"a" * size, EITHER) for size in (2_000, 8_000, 30_000, 60_000, 70_000, 200_000)),
)
HOSTS: tuple[tuple[bytes, Rule], ...] = (
    (b"", REFUSED),
    (HOST + HOST, REFUSED),
    (b"Host: h\r\nhost: other\r\n", REFUSED),
    *((b"Host: %b\r\n" % host, READ) for host in (b"h:80", b"[::1]", b"[::1]:80", b"127.0.0.1", b"H.Example")),
    (b"Host:\r\n", EITHER),
    *(
        (b"Host: %b\r\n" % host, REFUSED)
        for host in (b"h h", b"h/x", b"u@h", b"h\0", b"h\x0b", b"h?", b"h#", b"h\\", b"<h>")
    ),
    *(
        (b"Host: %b\r\n" % host, FREE)
        for host in (b"h:", b"h,i", b"h:x", b"h:99999", b":80", b"%68", b"\xff", b"[h", b"h_h", b"..")
    ),
    (b"Host : h\r\n", REFUSED),
    (b" Host: h\r\n", REFUSED),
    (b"Host: h\r\n other\r\n", EITHER),
    (b"Host\0: h\r\n", REFUSED),
)
FIELDS: tuple[tuple[bytes, Rule], ...] = (
    *(
        (line, READ)
        for line in (
            b"A: b\r\n",
            b"A:b\r\n",
            b"A:\t b \t\r\n",
            b"A:\r\n",
            b"A: \r\n",
            b"A: b\r\nA: c\r\n",
            b"A: \xff\xfe\r\n",
        )
    ),
    *((line, READ) for line in (b"!#$%&'*+-.^_`|~09: b\r\n", b'A: (b) <c> "d" ; , \\\r\n')),
    *(
        (line, REFUSED)
        for line in (b"A : b\r\n", b"A\t: b\r\n", b"A\x0b: b\r\n", b": b\r\n", b"A\r\n", b"A b: c\r\n", b"A\0: b\r\n")
    ),
    *((b"A%b: b\r\n" % bytes([c]), EITHER) for c in b'(),/;<=>?@[\\]{}"\x01\x7f\x80\xff'),
    *((b"A: b%bc\r\n" % bytes([c]), REFUSED) for c in b"\0"),
    *((b"A: b%bc\r\n" % bytes([c]), EITHER) for c in b"\x01\x08\x0b\x0c\x1b\x1f\x7f"),
    *(
        (line, EITHER)
        for line in (b"A: b\rc\r\n", b"A: b\r\r\n", b"A: b\nB: c\r\n", b"A: b\n", b"A: b\r\n c\r\n", b"A: b\r\n\tc\r\n")
    ),
    *((line, EITHER) for line in (b"A:\r\n b\r\n", b"A: b\r\n \r\n", b"A: b\n c\r\n", b"A: b\r\n  \t c\r\n\td\r\n")),
    *((b"A: %b\r\n" % (b"b" * size), EITHER) for size in (4_000, 16_000, 60_000, 70_000, 130_000, 1_000_000)),
    *((b"%b: c\r\n" % (b"b" * size), EITHER) for size in (300, 16_000, 70_000)),
    *((b"A: b\r\n" * count, EITHER) for count in (90, 110, 1_000, 10_000)),
    *((b"X-A%d: b\r\n" % count * count, EITHER) for count in (100, 3_000)),
)


def head_cases() -> Iterator[Case]:
    for line, rule in LINES:
        yield Case("line", repr(line[:40]), line + REST, rule, (b"",))
    yield Case("line", "HTTP/0.9", b"GET /v1/t@@\r\n", REFUSED)
    for target, rule in TARGETS:
        yield Case("target", repr(target[:40]), request(method=b"GET", target=target), rule, (b"",))
    yield Case("target", "OPTIONS *", request(method=b"OPTIONS", target=b"*"), EITHER, (b"",))
    yield Case("target", "CONNECT", request(b"", SECOND, method=b"CONNECT", target=b"h:80"), REFUSED)
    yield Case(
        "target", "CONNECT with a body", request(counted(SECOND), SECOND, method=b"CONNECT", target=b"h:80"), REFUSED
    )
    for host, rule in HOSTS:
        yield Case("host", repr(host[:40]), request(counted(b"hello"), b"hello", host=host), rule, (b"hello",))
    bare = request(method=b"GET", target=b"http://h/v1/t@@", host=b"")
    yield Case("host", "none, and a URL", bare, REFUSED)
    yield Case("host", "none in HTTP/1.0", request(method=b"GET", host=b"").replace(b"1.1", b"1.0"), READ, (b"",))
    for line, rule in FIELDS:
        yield Case("field", repr(line[:40]), request(line, method=b"GET"), rule, (b"",))
        if len(line) < 1000:
            first = request(method=b"GET", host=line + HOST).replace(b"\r\nA", b"\r\nA", 1)
            yield Case("field", f"first: {line[:40]!r}", first, rule, (b"",))
    yield Case("field", "a space first", b"GET /v1/t@@ HTTP/1.1\r\n A: b\r\n" + REST, REFUSED)
    yield Case("field", "all ends are LF", request(method=b"GET").replace(b"\r\n", b"\n"), EITHER, (b"",))
    yield Case("field", "all ends are CR", request(method=b"GET").replace(b"\r\n", b"\r"), REFUSED)
    yield Case("field", "an LF ends the head", request(method=b"GET")[:-2] + b"\n", EITHER, (b"",))
    yield Case("field", "a CR ends the head", request(method=b"GET")[:-2] + b"\r", FREE)
    yield from _connections()


def _connections() -> Iterator[Case]:
    def case(name: str, raw: bytes, rule: Rule, *bodies: bytes) -> Case:
        return Case("connection", name, raw, rule, bodies)

    one, old = request(method=b"GET"), request(method=b"GET").replace(b"1.1", b"1.0")
    closing = request(b"Connection: close\r\n", method=b"GET")
    posted = request(counted(b"hello"), b"hello")
    for count in (2, 3, 7, 12, 40):
        yield case(f"{count} pipelined", one * count, READ, *[b""] * count)
    yield case("bodies pipelined", posted * 3 + request(CHUNKED, HELLO) + one, READ, *[b"hello"] * 4, b"")
    yield case("empty lines between", one + b"\r\n\r\n" + one, READ, b"", b"")
    yield case("HEAD before GET", request(method=b"HEAD") + one, READ, b"", b"")
    yield case("another behind close", closing + SECOND, READ, b"")
    yield case(
        "another behind close and a body",
        request(counted(b"hello") + b"Connection: CLOSE\r\n", b"hello" + SECOND),
        READ,
        b"hello",
    )
    yield case("another behind HTTP/1.0", old + SECOND, READ, b"")
    kept = request(b"Connection: keep-alive\r\n", method=b"GET").replace(b"1.1", b"1.0")
    yield case("HTTP/1.0 kept alive", kept, READ, b"")
    for value in (b"keep-alive, close", b"close, keep-alive", b"x, close", b"close, x", b"\tclose"):
        raw = request(b"Connection: %b\r\n" % value, method=b"GET") + SECOND
        yield case(f"another behind {value!r}", raw, READ, b"")
    yield case("bad behind good", one + b"BAD\r\n\r\n", READ, b"")
    yield case("half of a head", one[:-2], REFUSED)
    yield case("half of a body", request(b"Content-Length: 50\r\n", b"hello"), REFUSED)
    for name, lines in (
        ("h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        (
            "websocket",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n",
        ),
        ("another protocol", b"Connection: Upgrade\r\nUpgrade: foo\r\n"),
        ("none", b"Connection: Upgrade\r\n"),
        ("one without Connection", b"Upgrade: h2c\r\n"),
    ):
        yield case(f"upgrade to {name}", request(lines, method=b"GET"), EITHER, b"")
        yield case(f"upgrade to {name}, a body", request(lines + counted(b"hello"), b"hello"), EITHER, b"hello")
        yield case(f"upgrade to {name}, chunks", request(lines + CHUNKED, HELLO), EITHER, b"hello")
        yield case(f"upgrade to {name}, another behind it", request(lines, method=b"GET") + SECOND, EITHER, b"", b"")
        raw = request(lines + counted(b"hello"), b"hello" + SECOND)
        yield case(f"upgrade to {name}, a body, another behind it", raw, EITHER, b"hello", b"")
    for value, rule in (
        (b"100-continue", READ),
        (b"100-Continue", READ),
        (b"200-ok", EITHER),
        (b"100-continue, x", EITHER),
        (b"", FREE),
    ):
        line = b"Expect: %b\r\n" % value
        yield case(f"expects {value!r}", request(line + counted(b"hello"), b"hello"), rule, b"hello")
        yield case(f"expects {value!r}, no body", request(line, method=b"GET"), rule, b"")
        yield case(
            f"expects {value!r}, another behind it",
            request(line + counted(b"hello"), b"hello" + SECOND),
            rule,
            b"hello",
            b"",
        )
    raw = request(b"Expect: 100-continue\r\n" + counted(b"hello"), b"hello").replace(b"1.1", b"1.0")
    yield case("expects in HTTP/1.0", raw, READ, b"hello")
