"""Chunks of an instance's answer that come each in a read of its own go past the parser, which sees all others."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.lone_chunk import framed
from dualmap.router.http.upstream import ConnectionOwner, UpstreamConnection
from dualmap.scheduler.events import FailureCause

TO = InstanceHead(b" ", b" HTTP/1.1\r\n", False, b"i:1", b"")
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
BODIES = st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"a" * 5000])
SPELLINGS = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b"])


class Owner(ConnectionOwner):
    def __init__(self) -> None:
        self.head, self.known, self.noted_in_vain = TO, None, 0

    def keep(self, connection) -> None: ...


class Sink(AnswerSink):
    def __init__(self) -> None:
        self.relayed: list[bytes] = []
        self.ends: list[object] = []

    def relay(self, body, pieces, head, complete) -> None:
        self.relayed.append(body)

    def answer_complete(self, head) -> None:
        self.ends.append("complete" if head.keep_alive else "the last")

    def attempt_failed(self, cause: FailureCause) -> None:
        self.ends.append(cause)


def fetched(reads: list[bytes]) -> tuple[list[bytes], list[object]]:
    """What is relayed of an answer that comes so, and how it ends."""
    nothing = lambda *_: None  # noqa: E731
    transport = SimpleNamespace(
        write=nothing, abort=nothing, resume_reading=nothing, is_closing=lambda: False, get_write_buffer_size=lambda: 0
    )
    connection = UpstreamConnection(Owner(), lambda: 0.0)
    connection.connection_made(transport)
    sink = Sink()
    connection.run(sink, b"POST / HTTP/1.1\r\n\r\n", b"")
    for read in reads:
        if not sink.ends:
            connection.data_received(read)
    return sink.relayed, sink.ends


@given(chunks=st.lists(st.tuples(SPELLINGS, BODIES), max_size=8), cuts=st.sets(st.integers(0, 400), max_size=6))
def test_an_answer_is_the_same_however_it_comes(chunks, cuts):
    framed_each = [spelling % len(body) + b"\r\n" + body + b"\r\n" for spelling, body in chunks]
    body = b"".join(body for _, body in chunks)
    stream = b"".join(framed_each) + LAST
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for reads in (
        [HEAD, *framed_each, LAST],
        [HEAD + stream],
        [HEAD, *(stream[a:b] for a, b in itertools.pairwise(edges))],
    ):
        relayed, ends = fetched(reads)
        assert (b"".join(relayed), ends) == (body, ["complete"])


@pytest.mark.parametrize(
    "reads",
    [
        [framed(b"a"), b"z\r\nb\r\n"],
        [framed(b"a"), b"3\r\nbb\r\n\r\n", framed(b"c"), LAST],
        [framed(b"a"), b"2\r\nb\r\n\r\n", framed(b"c"), LAST],
        [framed(b"a"), b"9", framed(b"b"), LAST],
        [framed(b"a"), b"1\r\n", framed(b"b"), LAST],
        [framed(b"a"), b"3;", framed(b"b"), b"\r\n", LAST],
        [framed(b"a"), b"0\r\n", framed(b"b")],
        [framed(b"a"), b"0\r\nx: y\r\n", b"5\r\n: z\r\n\r\n"],
    ],
)
def test_what_may_be_no_chunk_is_parsed(reads):
    relayed, ends = fetched([HEAD, *reads])
    whole, whole_ends = fetched([HEAD + b"".join(reads)])
    assert (ends, b"".join(relayed)[: len(b"".join(whole))]) == (whole_ends, b"".join(whole))
