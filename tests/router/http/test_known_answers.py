"""Answers whose head is known by its form: what is relayed is what the parser reads."""

import pytest
from httptools import HttpResponseParser

from dualmap.router.http import upstream
from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.head_form import MOST_IN_VAIN
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.upstream import ConnectionOwner, UpstreamConnection
from dualmap.scheduler.fleet.endpoint import Endpoint

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: %b\r\nserver: uvicorn\r\ncontent-length: %b\r\ncontent-type: application/json\r\n"
    b"x-request-id: %b\r\n\r\n"
)
DATE = b"Mon, 30 Nov 2026 10:00:00 GMT"
ANSWER = HEAD % (DATE, b"2", b"r-1") + b"{}"


class Counting:
    """A connection as the parser sees it. parsed: heads that it has been told of."""

    parsed = 0

    def __init__(self, connection):
        self._connection = connection

    def on_message_begin(self):
        Counting.parsed += 1
        self._connection.on_message_begin()

    def __getattr__(self, name):
        return getattr(self._connection, name)


@pytest.fixture(autouse=True)
def parsed_heads_are_counted(monkeypatch):
    monkeypatch.setattr(upstream, "HttpResponseParser", lambda connection: HttpResponseParser(Counting(connection)))


class Pool(ConnectionOwner):
    endpoint = Endpoint("i", 1)

    def __init__(self, noted_in_vain=0):
        self.head = InstanceHead(b" ", b" HTTP/1.1\r\n", False, b"i:1", b"")
        self.known = None
        self.noted_in_vain = noted_in_vain
        self.idle = []

    def keep(self, connection):
        self.idle.append(connection)

    def forget(self, connection):
        pass


class Transport:
    closed = False

    def write(self, data):
        pass

    def abort(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return 0

    def resume_reading(self):
        pass


class Sink(AnswerSink):
    def __init__(self):
        self.told = []

    def relay(self, body, pieces, head, complete):
        values = ((name, getattr(head, name)) for name in dir(head) if not name.startswith("_"))
        said = {name: value for name, value in values if not callable(value)}
        self.told.append((body, pieces, said, complete))

    def answer_complete(self, head):
        self.told.append("complete")

    def attempt_failed(self, cause):
        self.told.append(cause)


def fetch(answers, method=b"POST", noted_in_vain=0):
    """Returns what became of the answers, and how many heads were parsed."""
    pool, told = Pool(noted_in_vain), []
    Counting.parsed = 0
    for answer in answers:
        if pool.idle:
            connection = pool.idle.pop()
        else:
            connection = UpstreamConnection(pool, lambda: 0.0)
            connection.connection_made(Transport())
        sink = Sink()
        connection.run(sink, method + b" / HTTP/1.1\r\n\r\n", b"")
        for piece in answer if isinstance(answer, list) else [answer]:
            connection.data_received(piece)
        told.append((sink.told, len(pool.idle)))
    return told, Counting.parsed


def check_alike(answers, method=b"POST"):
    """Returns how many heads were parsed."""
    told, parsed = fetch(answers, method)
    assert told == fetch(answers, method, MOST_IN_VAIN)[0]
    return parsed


def test_a_head_is_parsed_once_for_all_connections():
    others = [HEAD % (DATE[::-1], b"0", b"b c"), HEAD % (DATE, b"003", b"r-2") + b"{ }"]
    assert check_alike([ANSWER, ANSWER, *others, ANSWER]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        [ANSWER[:-1], ANSWER[-1:]],
        [ANSWER[:9], ANSWER[9:]],
        ANSWER + b"{}",
        ANSWER + ANSWER,
        b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
        ANSWER.replace(b"200 OK", b"500 OK"),
        ANSWER.replace(b"200 OK", b"200 Ok"),
        ANSWER.replace(b"server: ", b"server:"),
        ANSWER.replace(b"server: uvicorn", b"connection: close"),
        *(HEAD % (DATE, length, b"r-1") + b"{}" for length in (b"", b"+2", b"2 ", b"0x2", b"2,2", b"9" * 40)),
        *(HEAD % (DATE, b"2", id_) + b"{}" for id_ in (b"", b" r1", b"r1 ", b"r1\0", b"r\r\n", b"r1\n", b"r\xe4\xe4")),
        HEAD % (DATE, b"2", b"r-1\r\ntransfer-encoding: chunked") + b"{}",
    ],
    ids=range(23),
)
def test_what_is_not_one_whole_answer_of_the_form_is_parsed(answer):
    assert check_alike([ANSWER, answer, ANSWER]) >= 2


@pytest.mark.parametrize(
    "line",
    [
        b"connection: close",
        b"location: http://i:1/a",
        b"content-length: 2",
        b"date: again",
        b"transfer-encoding: chunked",
        b"a:b",
        b"a: %b" % (b"b" * 9999),
    ],
    ids=lambda line: line[:10].decode(),
)
def test_such_heads_are_parsed_each_time(line):
    answer = ANSWER.replace(b"server: uvicorn", line)
    assert check_alike([answer] * 3) == 3


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_body_is_parsed_each_time(status):
    assert check_alike([ANSWER.replace(b"200 OK", status)[:-2]] * 3) == 3


def test_answers_to_head_are_parsed():
    assert check_alike([ANSWER[:-2]] * 3, b"HEAD") == 3


def test_a_head_is_known_as_it_came_whatever_became_of_it():
    class Changing(Sink):
        def relay(self, body, pieces, head, complete):
            super().relay(body, pieces, head, complete)
            head.status = 502

    pool, sinks = Pool(), [Changing(), Sink()]
    connection = UpstreamConnection(pool, lambda: 0.0)
    connection.connection_made(Transport())
    for sink in sinks:
        connection.run(sink, b"POST / HTTP/1.1\r\n\r\n", b"")
        connection.data_received(ANSWER)
    assert [sink.told[0][2]["status"] for sink in sinks] == [200, 200]


def test_heads_that_are_never_alike_are_noted_a_few_times():
    answers = [ANSWER.replace(b"uvicorn", b"%d" % number) for number in range(2 * MOST_IN_VAIN)]
    assert fetch([*answers, answers[MOST_IN_VAIN - 1]])[1] == len(answers)
    assert fetch([*answers, answers[-1]])[1] == len(answers) + 1
