"""Bytes of an answer and their times in, outcome and timings out."""

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.loadtest.replay.run_file import Outcome
from dualmap.loadtest.replay.stream_reader import StreamReader
from dualmap.router.apis.stream_rules import CHUNK_STREAM, MESSAGES_STREAM, RESPONSES_STREAM

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
ABORT = b'data: {"choices":[{"delta":{},"finish_reason":"abort"}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":8}}}\n\n'
)
ERROR = b'data: {"error":{"message":"engine died","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
COMPLETED = (
    b'event: response.completed\ndata: {"response":{"output":[%b],"usage":{"input_tokens":9,"output_tokens":3,'
    b'"input_tokens_details":{"cached_tokens":8}}},"type":"response.completed"}\n\n'
)
FAILED = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"no"}}}\n\n'
STOPPED = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":1,'
    b'"output_tokens":3,"cache_read_input_tokens":8}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
MESSAGE_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def read(*parts: bytes) -> StreamReader:
    reader = StreamReader()
    for at, part in enumerate(parts):
        reader.feed(part, float(at))
    return reader


@pytest.mark.parametrize(
    ("events", "ended", "outcome"),
    [
        ([TOKEN, LAST, USAGE, DONE], True, Outcome.OK),
        ([TOKEN, LAST, USAGE, DONE], False, Outcome.OK),
        ([TOKEN, LAST, DONE], True, Outcome.OK),
        ([event.replace(b"\n", b"\r\n") for event in (TOKEN, LAST, DONE)], True, Outcome.OK),
        ([TOKEN, LAST, USAGE], True, Outcome.BROKEN),
        ([TOKEN], False, Outcome.BROKEN),
        ([], True, Outcome.BROKEN),
        ([TOKEN, ABORT, DONE], True, Outcome.BROKEN),
        ([TOKEN, ERROR, DONE], True, Outcome.BROKEN),
        ([TOKEN] * 2000 + [LAST, USAGE, DONE], True, Outcome.OK),
        ([TOKEN] * 2000 + [ERROR, DONE], True, Outcome.BROKEN),
        ([COMPLETED % b"", FAILED], True, Outcome.BROKEN),
        ([COMPLETED % (b'"' + b"a" * 20_000 + b'"')], True, Outcome.OK),
        ([STOPPED], True, Outcome.OK),
        ([MESSAGE_ERROR], True, Outcome.BROKEN),
    ],
)
def test_a_stream_is_ok_only_if_it_came_to_its_own_end(events, ended, outcome):
    reader = read(HEAD, *map(chunk, events), *([END] if ended else []))
    assert reader.outcome()[0] is outcome
    assert reader.complete is ended


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(429, Outcome.SHED), (503, Outcome.SHED), (400, Outcome.HTTP_ERROR), (500, Outcome.HTTP_ERROR)],
)
def test_refusals_are_told_from_errors_and_carry_the_servers_message(status, outcome):
    body = b'{"error":{"message":"because","type":"x"}}'
    reader = read(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    assert reader.outcome() == (outcome, "because", None)


def test_an_answer_without_a_status_is_broken():
    assert read().outcome()[0] is Outcome.BROKEN


def test_what_is_not_http_raises():
    with pytest.raises(httptools.HttpParserError):
        read(b"no such thing\r\n\r\n")


PING = b": keep-alive\n\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n'
DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
TEXT = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'


@pytest.mark.parametrize(
    ("rules", "before", "token"),
    [(CHUNK_STREAM, ROLE, TOKEN), (RESPONSES_STREAM, CREATED, DELTA), (MESSAGES_STREAM, START, TEXT)],
)
def test_neither_comments_nor_what_precedes_the_first_token_are_one(rules, before, token):
    reader = StreamReader(rules)
    for at, part in enumerate((HEAD, chunk(PING), chunk(before), chunk(PING + token), chunk(token), chunk(DONE), END)):
        reader.feed(part, float(at))
    assert reader.first_token_at == 3.0
    assert list(reader.gaps_s) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (b'data: {"error":{"message":"because","code":503}}\n\n' + DONE, Outcome.SHED),
        (b'data: {"error":{"message":"because","code":429}}\n\n' + DONE, Outcome.SHED),
        (b'data: {"error":{"message":"because","code":504}}\n\n' + DONE, Outcome.BROKEN),
        (b'event: error\ndata: {"type":"error","code":"503","message":"because"}\n\n', Outcome.SHED),
        (
            b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"because"}}\n\n',
            Outcome.SHED,
        ),
    ],
)
def test_a_refusal_may_come_after_the_head_and_is_no_token(event, outcome):
    reader = read(HEAD, chunk(PING), chunk(event), END)
    assert reader.outcome()[0] is outcome
    if outcome is Outcome.BROKEN or event.endswith(DONE):
        assert "because" in reader.outcome()[1]


def test_the_first_token_counts_and_not_the_head():
    reader = read(HEAD, chunk(TOKEN), chunk(TOKEN), chunk(LAST), chunk(DONE), END)
    assert (reader.first_token_at, reader.last_body_at) == (1.0, 4.0)
    assert list(reader.gaps_s) == [1.0, 1.0, 1.0]
    assert reader.mean_inter_token_s(4) == 1.0
    assert reader.mean_inter_token_s(1) is None


def test_usage_is_read_from_the_last_events():
    usage = read(HEAD, chunk(TOKEN), chunk(LAST + USAGE + DONE), END).outcome()[2]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (9, 3, 8)


@given(st.lists(st.integers(1, 400), max_size=20))
def test_the_outcome_does_not_depend_on_how_the_bytes_arrive(cuts):
    data = HEAD + b"".join(map(chunk, [TOKEN, TOKEN, LAST, USAGE, DONE])) + END
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    parts = [data[a:b] for a, b in pairwise(places)]
    outcome, detail, usage = read(*parts).outcome()
    assert (outcome, detail, usage.cached_tokens) == (Outcome.OK, "", 8)
