"""Answers of instances: what goes to the client does not depend on how they are cut, and is all but what is hidden."""

import re
from typing import Any

from dualmap.router.apis.state_ids import MAX_STATE_ID, StateSeeker
from dualmap.router.apis.stream_event import is_comment, read_error
from dualmap.router.apis.stream_rules import CHUNK_STREAM, MESSAGES_STREAM, OTHER_STREAM, RESPONSES_STREAM
from dualmap.router.apis.usage import peek_usage
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.head_form import MOST_IN_VAIN
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.upstream import ConnectionOwner, UpstreamConnection
from dualmap.router.requests.answer_events import FAILED, AnswerEvents
from dualmap.router.requests.answer_plain import HeldAnswer
from dualmap.router.requests.answer_spool import SpoolRoom
from dualmap.router.requests.answer_verdict import says_no_model, says_too_long
from dualmap.scheduler.events import FailureCause
from tests.fuzz.target import Target, cut

RULES = (CHUNK_STREAM, RESPONSES_STREAM, MESSAGES_STREAM, OTHER_STREAM)
NO_SPOOL = SpoolRoom(lambda: 0)


# Heads and bodies.


class _Transport:
    """Takes all, and is closed at once."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.closed = True

    close = abort

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None: ...


class _Pool(ConnectionOwner):
    def __init__(self, noted_in_vain: int) -> None:
        self.head = InstanceHead(b" ", b" HTTP/1.1\r\n", False, b"i:1", b"/p")
        self.known = None
        self.kept = 0
        self.noted_in_vain = noted_in_vain

    def keep(self, connection: UpstreamConnection) -> None:
        self.kept += 1

    def forget(self, connection: UpstreamConnection) -> None: ...

    def open_for(self, sink: Any) -> None:
        sink.ends.append("again")


class _Sink(AnswerSink):
    def __init__(self) -> None:
        self.relayed: list[bytes] = []
        self.heads: set[tuple[Any, ...]] = set()
        self.ends: list[object] = []

    def head_for(self, to: InstanceHead) -> bytes:
        return b"GET / HTTP/1.1\r\n\r\n"

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        assert not self.ends, "an answer goes on behind its end"
        self.relayed.append(body)
        self.heads.add((head.status, tuple(head.lines), head.content_length, head.event_stream, head.has_body))

    def answer_complete(self, head: AnswerHead) -> None:
        self.ends.append(head.status)

    def attempt_failed(self, cause: FailureCause) -> None:
        self.ends.append(cause)


def _fetch(pieces: list[bytes], method: bytes, pool: _Pool) -> tuple[object, ...]:
    sink, transport = _Sink(), _Transport()
    connection = UpstreamConnection(pool, lambda: 0.0)
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.run(sink, method + b" / HTTP/1.1\r\n\r\n", b"")
    for piece in pieces:
        if transport.closed or sink.ends:
            break
        connection.data_received(piece)
    if not transport.closed:
        connection.eof_received()
    connection.connection_lost(None)
    assert len(sink.ends) == 1 or (not sink.ends and transport.closed), "an attempt ends once"
    assert len(sink.heads) <= 1, "an answer has one head"
    broken = sink.ends == [FailureCause.BROKEN]
    return sink.ends, None if broken else (b"".join(sink.relayed), sink.heads)


def check_answer(data: bytes) -> None:
    """The first byte chooses the method."""
    method = b"HEAD" if data[:1] == b"\1" else b"POST"
    pool = _Pool(0)
    whole = _fetch([data[1:]], method, pool)
    assert _fetch(cut(data[1:]), method, pool) == whole
    assert _fetch([data[1:]], method, pool) == whole, "a head is known for another"
    assert _fetch([data[1:]], method, _Pool(MOST_IN_VAIN)) == whole


ANSWERS = Target("answers", check_answer)


# Events.

_EVENT_END = re.compile(rb"\r?\n\r?\n")


def _relayed(pieces: list[bytes], rules: Any, hides_usage: bool) -> tuple[bytes, bytes, bool, Any]:
    events = AnswerEvents(rules, hides_usage)
    relayed = b""
    for place, piece in enumerate(pieces):
        relayed += events.feed(piece, place == len(pieces) - 1)
        if events.notice is FAILED:
            if events.error is not None:
                rules.last_events(events.error)
            break
        events.notice = None
    rules.error_events(read_error(500, b""), relayed[-4096:])
    return _events(relayed), events.usage_event.strip(b"\r\n"), events.notice is FAILED, events.error


def check_events(data: bytes) -> None:
    """The first byte chooses the API, and whether `usage` is hidden."""
    kind, stream = (data[0] if data else 0), data[1:]
    rules = RULES[kind % len(RULES)]
    for hides_usage in (False, True):
        whole = _relayed([stream], rules, hides_usage)
        pieces = _relayed([*cut(stream), b""], rules, hides_usage)
        assert pieces == whole, "another cut, another answer"
        relayed, _, failed, _ = whole
        if not failed:
            got = iter(relayed)
            left = next(got, None)
            for event in _events(stream):
                if event == left:
                    left = next(got, None)
                elif not hides_usage or b"usage" not in event:
                    raise AssertionError(f"it never came: {event!r}")
            assert left is None, left


def _events(stream: bytes) -> list[bytes]:
    """But for comments, which may be dropped before the first of the answer, and for empty lines."""
    return [event.strip(b"\r\n") for event in _EVENT_END.split(stream) if not is_comment(event)]


EVENTS = Target("events", check_events)


# What is read of them beside.


def check_plain(data: bytes) -> None:
    """The first byte chooses the API."""
    kind, body = (data[0] if data else 0), data[1:]
    peek_usage(body)
    for status in (400, 404, 500, 799):
        read_error(status, body)
        says_too_long(status, body)
        says_no_model(status, body)
    HeldAnswer(RULES[kind % len(RULES)], NO_SPOOL).feed(body, True)
    for event_stream in (False, True):
        seeker = StateSeeker(event_stream)
        pieces = cut(body)
        found = ""
        for place, piece in enumerate(pieces):
            if not seeker.seeks:
                break
            found = seeker.feed(piece, place == len(pieces) - 1)
        assert len(found) <= MAX_STATE_ID
        assert not (pieces and seeker.seeks)


PLAIN = Target("plain", check_plain)
