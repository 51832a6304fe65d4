"""Bytes to requests, cut in every possible way."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.http.http_request import MOST_PIECES
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.request_reader import RequestReader

STREAM = (
    b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nContent-Length: 5\r\n\r\nhello"
    b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n"
    b"\r\nPOST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: t\r\n\r\n"
    b"POST /d HTTP/1.1\r\nHost: x\r\nConnection: upgrade, x-gone\r\nX-Gone: 1\r\n"
    b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nhi"
    b"GET /e HTTP/1.0\r\n\r\n"
)


def read(pieces, **limits):
    reader = RequestReader(HttpLimits(**limits), lambda request: None, lambda: 0.0)
    for piece in pieces:
        reader.feed(piece)
    return reader


def summary(reader):
    return [(r.method, r.target, r.body, r.forwarded, r.close, r.refusal) for r in reader.ready]


EXPECTED = [
    ("POST", b"/a?b=c", b"hello", [b"X-One: 1\r\n"], False, None),
    ("GET", b"/b", b"", [], False, None),
    ("POST", b"/c", b"hello", [], False, None),
    ("POST", b"/d", b"hi", [], False, None),
    ("GET", b"/e", b"", [], True, None),
]


def test_several_requests_in_one_read():
    assert summary(read([STREAM])) == EXPECTED


def test_one_byte_a_read():
    assert summary(read(STREAM[i : i + 1] for i in range(len(STREAM)))) == EXPECTED


def test_two_reads_cut_at_every_position():
    for cut in range(len(STREAM)):
        assert summary(read([STREAM[:cut], STREAM[cut:]])) == EXPECTED


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_reads_cut_anywhere(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    assert summary(read(piece for piece in pieces if piece)) == EXPECTED


@given(st.binary(max_size=300), st.integers(0, len(STREAM)))
def test_any_bytes_are_read_or_refused_once(noise, position):
    reader = read([STREAM[:position] + noise + STREAM[position:]])
    refusals = [request for request in reader.ready if request.refusal is not None]
    assert len(refusals) == (1 if reader.stopped else 0)
    assert not refusals or (reader.ready[-1] is refusals[0] and refusals[0].close)


def test_what_follows_a_refusal_in_the_same_read_is_not_read():
    reader = read([STREAM[: STREAM.index(b"GET /b")] + b"BAD\r\n\r\n" + STREAM, STREAM])
    assert [request.target for request in reader.ready][:1] == [b"/a?b=c"]
    assert len(reader.ready) == 2
    assert reader.ready[1].refusal.status == 400


def test_the_body_of_a_refused_request_is_dropped():
    reader = read(
        [b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n"],
        max_body_bytes=10,
    )
    (request,) = reader.ready
    assert request.refusal.status == 413
    assert not request.body_pieces


def test_a_body_that_came_in_pieces_is_held_once():
    (request,) = read([b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12", b"34"]).ready
    assert request.body == b"1234"
    assert request.body_pieces == [b"1234"]
    assert request.body is request.body_pieces[0]


def test_spaces_around_a_coding_are_none_of_it():
    raw = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \tchunked \r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert [(request.body, request.refusal) for request in read([raw]).ready] == [(b"hi", None)]


def test_a_host_may_have_a_port_or_be_an_address_or_empty():
    for host in (b"h.example:80", b"[::1]:80", b"127.0.0.1", b"", b"a_b-c~%41"):
        (request,) = read([b"GET /a HTTP/1.1\r\nHost: %b\r\n\r\n" % host]).ready
        assert request.refusal is None


def test_tiny_pieces_of_a_body_are_joined():
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader = read([head, *[b"2\r\nab\r\n" * 10_000] * 5])
    assert len(reader.request.body_pieces) < 2 * MOST_PIECES
    reader.feed(b"0\r\n\r\n")
    assert reader.ready[0].body == b"ab" * 50_000
