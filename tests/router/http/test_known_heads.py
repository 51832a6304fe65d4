"""Heads that are known by their form: what is read is what the parser reads."""

import pytest
from httptools import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.http import request_reader
from dualmap.router.http.head_form import LONGEST_FORM_BYTES, MOST_IN_VAIN
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import unauthorized_key
from dualmap.router.http.request_reader import RequestReader

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEAD = (
    b"POST /v1//completions?a=b HTTP/1.1\r\nHost: x:1\r\nAuthorization: Bearer k\r\ntraceparent: %b\r\n"
    b"X-One: 1\r\nX-Request-ID: %b\r\nContent-Length: %b\r\nConnection: keep-alive, x-gone\r\nX-Gone: 1\r\n\r\n"
)
MESSAGE = HEAD % (TRACE, b"r-1", b"5") + b"hello"


class Counting:
    """A reader as the parser sees it. parsed: heads that the parser has told the last reader of."""

    parsed = 0

    def __init__(self, reader):
        self._reader = reader

    def on_message_begin(self):
        Counting.parsed += 1
        self._reader.on_message_begin()

    def __getattr__(self, name):
        return getattr(self._reader, name)


@pytest.fixture(autouse=True, scope="module")
def parsed_heads_are_counted():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(request_reader, "HttpRequestParser", lambda reader: HttpRequestParser(Counting(reader)))
        yield


def read(pieces, *, knows_heads=True, refusal=None, **limits):
    Counting.parsed = 0
    reader = RequestReader(HttpLimits(**limits), lambda request: refusal, lambda: 0.0)
    if not knows_heads:
        reader.noted_in_vain = MOST_IN_VAIN
    for piece in pieces:
        reader.feed(piece)
    return reader


def told(reader):
    requests = [
        (
            r.method,
            r.target,
            r.path,
            r.fields,
            r.forwarded,
            r.content_length,
            r.has_body,
            r.body,
            r.close,
            r.refusal and (r.refusal.status, r.refusal.message),
        )
        for r in reader.ready
    ]
    return requests, reader.stopped, reader.request is None


def check_alike(pieces, **options):
    """Returns how many heads were parsed."""
    reader = read(pieces, **options)
    parsed = Counting.parsed
    assert told(reader) == told(read(pieces, knows_heads=False, **options))
    return parsed


def test_a_head_is_parsed_once():
    assert check_alike([MESSAGE] * 5) == 1
    assert check_alike([b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"] * 5) == 1


def test_length_request_id_and_trace_may_be_others():
    others = [HEAD % (TRACE[::-1], b"2 r", b"012") + b"0123456789ab", HEAD % (TRACE, b"---", b"0")]
    assert check_alike([MESSAGE, *others, MESSAGE]) == 1


def test_its_body_may_come_in_any_pieces():
    stream = MESSAGE * 3
    for cut in range(len(MESSAGE), len(stream)):
        check_alike([MESSAGE, stream[:cut], stream[cut:], MESSAGE])
    head = MESSAGE[:-5]
    assert check_alike([MESSAGE, head, b"hel", b"lo", head, b"hello" + head + b"hello", MESSAGE]) == 1


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE.replace(b"X-One: 1", b"X-One: 2"),
        MESSAGE.replace(b"X-One: 1", b"X-One:  1"),
        MESSAGE.replace(b"Host", b"host"),
        *(HEAD % (TRACE, b"r-1", length) + b"hello" for length in (b"", b"+5", b"5 ", b"5,5", b"0x5", b"5_0", b"-5")),
        *(
            HEAD % (TRACE, id_, b"5") + b"hello"
            for id_ in (b"", b" r1", b"r1 ", b"r1\n", b"r\r\n", b"r1\0", b"r\xe4\xe4", b"r\t1", b"r1", b"r" * 999)
        ),
        HEAD % (TRACE, b"r-1", b"9" * 30),
        HEAD % (TRACE, b"r-1", b"5\r\nContent-Length: 6") + b"hello",
        HEAD % (TRACE, b"r-1", b"5\r\nTransfer-Encoding: chunked") + b"hello",
    ],
    ids=range(23),
)
def test_what_is_not_of_the_form_is_parsed(message):
    assert check_alike([MESSAGE, message, MESSAGE]) >= 2


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: close",
        b"Content-Encoding: gzip",
        b"Expect: 100-continue",
        b"X-Request-ID: 2",
        b"X-Two : 2",
        b"X-Two:2",
        b"X-Two:",
        b"X-Two: %b" % (b"2" * LONGEST_FORM_BYTES),
    ],
    ids=lambda line: line[:20].decode(),
)
def test_such_heads_are_parsed_each_time(line):
    message = MESSAGE.replace(b"X-One: 1", line)
    once = check_alike([message])
    refused_or_last = read([message]).stopped or b"close" in line
    assert check_alike([message, message, MESSAGE, MESSAGE]) == (once if refused_or_last else 3 * once)
    chunked = message.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    check_alike([chunked, chunked])


def test_a_trace_that_concerns_the_connection_alone_is_not_forwarded():
    message = MESSAGE.replace(b"X-One: 1", b"Connection: traceparent")
    assert check_alike([message, message]) == 1


@given(st.binary(max_size=20), st.integers(0, 2 * len(MESSAGE)), st.integers(0, 40))
def test_any_bytes_behind_a_known_head_are_read_as_ever(noise, position, dropped):
    stream = MESSAGE * 2
    check_alike([MESSAGE, stream[:position] + noise + stream[position + dropped :], MESSAGE])


def test_limits_hold_for_known_heads():
    reader = read([MESSAGE, HEAD % (TRACE, b"r-1", b"11") + b"hello"], max_body_bytes=10)
    assert [request.refusal and request.refusal.status for request in reader.ready] == [None, 413]
    long = HEAD % (TRACE, b"r-1", b"0" * 19 + b"5") + b"hello"
    check_alike([MESSAGE, long, MESSAGE], max_head_bytes=len(MESSAGE))


def test_a_known_head_may_be_refused_for_what_it_asks():
    reader = read([MESSAGE, MESSAGE[:-3], MESSAGE[-3:]], refusal=unauthorized_key())
    assert [(request.refusal.status, request.body) for request in reader.ready] == [(401, b"")] * 2
    assert Counting.parsed == 1


def test_heads_that_are_never_alike_are_noted_a_few_times():
    pieces = [MESSAGE.replace(b"X-One: 1", b"X-One: %d" % number) for number in range(2 * MOST_IN_VAIN)]
    reader = read(pieces)
    assert reader.noted_in_vain == MOST_IN_VAIN
    reader = read([*pieces[:MOST_IN_VAIN], pieces[MOST_IN_VAIN - 1]])
    assert reader.noted_in_vain == 0


def test_nothing_is_read_behind_a_head_that_ends_the_connection():
    last = MESSAGE.replace(b"X-One: 1", b"Connection: close")
    check_alike([MESSAGE, MESSAGE, last, MESSAGE])
    check_alike([MESSAGE, MESSAGE, last + MESSAGE])


@pytest.mark.parametrize("length", [b"5", b"12"])
def test_a_head_that_comes_in_two_reads_is_read_wherever_it_is_cut(length: bytes):
    message = HEAD % (TRACE, b"r-1", length) + b"x" * int(length)
    whole = told(read([MESSAGE, message]))
    for end in range(1, len(message)):
        assert told(read([MESSAGE, message[:end], message[end:]])) == whole, end
