"""What events of streams mean, by API. The events are those of vLLM 0.32 where it sends such."""

import json
from http import HTTPStatus

import pytest
from openai.types.responses import ResponseErrorEvent

from dualmap.router.apis.stream_event import Meaning, is_comment, read_event
from dualmap.router.apis.stream_rules import (
    CHUNK_STREAM,
    MESSAGES_STREAM,
    OTHER_STREAM,
    RESPONSES_STREAM,
    StreamRules,
)
from dualmap.router.http.openai_errors import HttpError

EMPTY, PRELUDE, PIECE, USAGE, ABORTED, ERROR = Meaning


def chunk(**fields) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def choice(finish_reason=None, **delta) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def failure(code, type="InternalServerError") -> bytes:
    return chunk(error={"message": "no", "type": type, "param": None, "code": code})


CHUNKS = [
    (choice(role="assistant", content=""), PRELUDE),
    (choice(role="assistant", content=None, refusal=None, tool_calls=[]), PRELUDE),
    (choice(role="assistant", content="Hi"), PIECE),
    (choice("stop", role="assistant", content=""), PIECE),
    (choice(content=""), PIECE),
    (choice(content="a"), PIECE),
    (choice(tool_calls=[{"index": 0, "function": {"arguments": "{"}}]), PIECE),
    (choice("length"), PIECE),
    (choice("abort", content=""), ABORTED),
    (choice("error"), ABORTED),
    (chunk(choices=[{"index": 0, "text": "", "finish_reason": None}]), PIECE),
    (chunk(choices=[{"index": 0, "token_ids": [5], "finish_reason": None}], usage=None), PIECE),
    (chunk(choices=[{"index": 0, "token_ids": [], "finish_reason": "abort"}], usage=None), ABORTED),
    (chunk(choices=[], usage={"prompt_tokens": 1}), USAGE),
    (chunk(usage={"prompt_tokens": 1}), USAGE),
    (chunk(choices=None, usage={"prompt_tokens": 1}), USAGE),
    (chunk(usage=None), PIECE),
    (chunk(choices=[], usage=None), PRELUDE),
    (chunk(choices=[], prompt_filter_results=[]), PRELUDE),
    (chunk(error=None, choices=[{"delta": {"content": "a"}}]), PIECE),
    (failure(500), ERROR),
    (failure("503"), ERROR),
    (failure(None), ERROR),
    (failure("\N{SUPERSCRIPT TWO}" * 3), ERROR),
    (failure("server_error"), ERROR),
    (failure(400), PIECE),
    (failure("422"), PIECE),
    (failure(None, "BadRequestError"), PIECE),
    (failure("unknown_parameter", "invalid_request_error"), PIECE),
    (failure(7), ERROR),
    (failure(429, "RateLimitError"), ERROR),
    (failure(None, "rate_limit_error"), ERROR),
    (b'event: error\ndata: {"message":"no"}\n\n', ERROR),
    (b"event: error\ndata: no\n\n", ERROR),
    (b'event: error\ndata: {"error":{"message":"no","code":400}}\n\n', PIECE),
    (chunk(object="error", message="no", code=500), ERROR),
    (chunk(object="error", message="no", code=400), PIECE),
    (chunk(error="no"), ERROR),
    (b"data: [DONE]\n\n", PIECE),
    (b'data: {"choices":\n\n', PIECE),
    (b'data: {"choices":5}\n\n', PIECE),
    (b"data: " + b"[" * 100_000 + b"\n\n", PIECE),
    (b'data: {"error":{"code":"\xff"}}\n\n', ERROR),
    (b'data: {"id":"\xff","choices":[{"delta":{"content":"\xff"}}]}\n\n', PIECE),
    (b"id: 7\n\n", PRELUDE),
    (b"retry: 3000\n\n", PRELUDE),
]


def named(name: str, **fields) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def lifecycle(name: str, status: str, **fields) -> bytes:
    return named(f"response.{name}", response={"object": "response", "status": status, "error": None, **fields})


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "a"}]}
RESPONSES = [
    (lifecycle("created", "in_progress", output=[], usage=None), PRELUDE),
    (lifecycle("queued", "queued"), PRELUDE),
    (lifecycle("in_progress", "in_progress"), PRELUDE),
    (named("response.output_item.added", item={"type": "message", "content": []}), PRELUDE),
    (named("response.content_part.added", part={"type": "output_text", "text": ""}), PRELUDE),
    (named("response.web_search_call.searching"), PRELUDE),
    (named("response.output_text.delta", delta="a"), PIECE),
    (named("response.reasoning_text.delta", delta="a"), PIECE),
    (named("response.function_call_arguments.delta", delta="{"), PIECE),
    (named("response.output_item.done", item=MESSAGE), PIECE),
    (lifecycle("completed", "completed", output=[MESSAGE], usage={"output_tokens": 1}), PIECE),
    (lifecycle("completed", "completed", output=[], usage={"output_tokens": 1}), PIECE),
    (lifecycle("completed", "completed", output=[], usage={"output_tokens": 0}), ABORTED),
    (lifecycle("completed", "cancelled", output=[MESSAGE], usage={"output_tokens": 1}), ABORTED),
    (lifecycle("incomplete", "incomplete", incomplete_details={"reason": "max_output_tokens"}), PIECE),
    (lifecycle("failed", "failed", error={"code": "server_error", "message": "no"}), ERROR),
    (lifecycle("failed", "failed"), ERROR),
    (lifecycle("failed", "failed", error={"code": "rate_limit_exceeded", "message": "no"}), ERROR),
    (lifecycle("failed", "failed", error={"code": "invalid_prompt", "message": "no"}), PIECE),
    (named("error", code="server_error", message="no", param=None, sequence_number=3), ERROR),
    (named("error", code="400", message="no", param="input", sequence_number=3), PIECE),
    (named("error", error={"type": "server_error", "code": 502, "message": "no"}), ERROR),
    (failure(500), ERROR),
    (failure(404), PIECE),
    (b"data: [DONE]\n\n", PIECE),
    (b"event: response.created\ndata: {\n\n", PIECE),
    (b'data: {"type":"error","message":"\xff"}\n\n', PIECE),
    (named("error", error="no"), ERROR),
    (b"event: error\ndata: died\n\n", ERROR),
]
MESSAGES = [
    (named("message_start", message={"stop_reason": None, "usage": {"input_tokens": 1}}), PRELUDE),
    (named("content_block_start", index=0, content_block={"type": "text", "text": ""}), PRELUDE),
    (named("ping"), PRELUDE),
    (b"event: ping\ndata: {}\n\n", PRELUDE),
    (named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}), PIECE),
    (named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}), PIECE),
    (named("message_delta", delta={"stop_reason": None, "stop_sequence": None}), ABORTED),
    (named("message_stop"), PIECE),
    (named("error", error={"type": "internal_error", "message": "no"}), ERROR),
    (named("error", error={"type": "api_error", "message": "no"}), ERROR),
    (named("error", error={"type": "overloaded_error", "message": "no"}), ERROR),
    (named("error", error={"type": "invalid_request_error", "message": "no"}), PIECE),
    (named("error", error={"type": "rate_limit_error", "message": "no"}), ERROR),
    (failure(500), ERROR),
    (failure(404), PIECE),
    (named("error", error="no"), ERROR),
    (b"event: error\ndata: died\n\n", ERROR),
    (b"event: content_block_delta\ndata: {\n\n", PIECE),
]
OTHERS = [
    (choice(role="assistant", content=""), PIECE),
    (chunk(choices=[], usage={"prompt_tokens": 1}), PIECE),
    (b'event: speech.audio.delta\ndata: {"type":"speech.audio.delta","audio":"YWJj"}\n\n', PIECE),
    (failure(500), ERROR),
    (failure(400), PIECE),
    (choice("abort"), ABORTED),
]
TABLE = [
    (rules, event, meaning)
    for rules, events in (
        (CHUNK_STREAM, CHUNKS),
        (RESPONSES_STREAM, RESPONSES),
        (MESSAGES_STREAM, MESSAGES),
        (OTHER_STREAM, OTHERS),
    )
    for event, meaning in events
]


@pytest.mark.parametrize(("rules", "event", "meaning"), TABLE)
def test_an_event_means_what_its_api_says_however_its_lines_end(rules: StreamRules, event, meaning):
    assert rules.meaning(event) is meaning
    assert rules.meaning(event.replace(b"\n", b"\r\n")) is meaning
    assert rules.meaning(b": said by a proxy\n" + event.replace(b": ", b":")) is meaning


@pytest.mark.parametrize(("rules", "event", "meaning"), TABLE)
def test_what_is_more_than_a_piece_of_an_answer_rings_an_alarm(rules: StreamRules, event, meaning):
    if meaning in (ABORTED, ERROR):
        assert any(alarm in event for alarm in rules.alarms)


@pytest.mark.parametrize(
    ("event", "is_one"),
    [
        (b": keep-alive\n\n", True),
        (b":\r\n\r\n", True),
        (b"\n: a\n: b\n\n", True),
        (b"\n", True),
        (b"", True),
        (b": a\ndata: b\n\n", False),
        (b"data: : a\n\n", False),
        (b"retry: 1\n\n", False),
    ],
)
def test_a_comment_is_known(event, is_one):
    assert is_comment(event) is is_one


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (b"data: a\n\n", b"", b"a"),
        (b"data:a\ndata: b\n\n", b"", b"a\nb"),
        (b"id: 1\r\nevent:x\r\ndata:  a\r\nother: c\r\n\r\n", b"x", b" a"),
        (b"event: x\n\n", b"x", b""),
        (b"data\n\n", b"", b""),
    ],
)
def test_an_event_has_a_name_and_data(event, name, data):
    assert read_event(event) == (name, data)


@pytest.mark.parametrize(
    ("rules", "event", "status", "body"),
    [
        (CHUNK_STREAM, failure("503"), 503, json.loads(failure("503")[6:])),
        (CHUNK_STREAM, failure(None), 500, json.loads(failure(None)[6:])),
        (CHUNK_STREAM, chunk(error="no"), 500, {"error": "no"}),
        (CHUNK_STREAM, failure(500).replace(b"data: ", b": x\ndata:"), 500, json.loads(failure(500)[6:])),
        (
            RESPONSES_STREAM,
            named("error", code="server_error", message="no", param=None, sequence_number=3),
            500,
            {"error": {"message": "no", "type": "server_error", "param": None, "code": "server_error"}},
        ),
        (
            RESPONSES_STREAM,
            lifecycle("failed", "failed", error={"code": "502", "message": "no"}),
            502,
            {"error": {"message": "no", "type": "server_error", "param": None, "code": "502"}},
        ),
        (RESPONSES_STREAM, failure(500), 500, json.loads(failure(500)[6:])),
        (
            MESSAGES_STREAM,
            named("error", error={"type": "overloaded_error", "message": "no"}),
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
        ),
        (
            MESSAGES_STREAM,
            named("error", error={"type": "rate_limit_error", "message": "no"}),
            429,
            {"type": "error", "error": {"type": "rate_limit_error", "message": "no"}},
        ),
        (
            MESSAGES_STREAM,
            named("error", error="no"),
            500,
            {"type": "error", "error": {"type": "api_error", "message": "no"}},
        ),
        (
            MESSAGES_STREAM,
            b"event: error\ndata: died\n\n",
            500,
            {"type": "error", "error": {"type": "api_error", "message": "died"}},
        ),
        (CHUNK_STREAM, b"event: error\ndata: died\n\n", 500, {"error": {"message": "died"}}),
        (CHUNK_STREAM, b'event: error\ndata: "died"\n\n', 500, {"error": {"message": "died"}}),
        (
            CHUNK_STREAM,
            b'event: error\ndata: {"message":"no","code":503}\n\n',
            503,
            {"error": {"message": "no", "code": 503}},
        ),
        (
            RESPONSES_STREAM,
            b"event: error\ndata: died\n\n",
            500,
            {"error": {"message": "died", "type": "server_error", "param": None, "code": None}},
        ),
    ],
)
def test_an_error_event_stands_for_a_plain_answer(rules: StreamRules, event, status, body):
    error = rules.error(event)
    assert (error.status, json.loads(error.body), error.event) == (status, body, event)
    assert rules.last_events(error).startswith(event)


GONE = HttpError(HTTPStatus.BAD_GATEWAY, "BadGatewayError", "It is gone.", None)


def test_a_stream_of_chunks_ends_with_an_error_and_done():
    error, done, end = CHUNK_STREAM.error_events(GONE, b"").split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == 502
    assert (done, end) == (b"data: [DONE]", b"")
    assert CHUNK_STREAM.last_events(CHUNK_STREAM.error(failure(500))) == failure(500) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("tail", "number"),
    [(b"", 0), (named("response.output_text.delta", sequence_number=41, delta='"sequence_number":9'), 42)],
)
def test_a_response_ends_with_an_error_event_that_goes_on_counting(tail, number):
    name, data = read_event(RESPONSES_STREAM.error_events(GONE, tail))
    event = ResponseErrorEvent.model_validate_json(data)
    assert (name, event.type, event.message, event.sequence_number) == (b"error", "error", "It is gone.", number)
    assert (event.code, event.param) == ("502", None)


def test_messages_end_with_an_error_event():
    name, data = read_event(MESSAGES_STREAM.error_events(GONE, b""))
    assert name == b"error"
    assert json.loads(data) == {"type": "error", "error": {"type": "api_error", "message": "It is gone."}}


@pytest.mark.parametrize(
    ("rules", "answer", "aborted"),
    [
        (CHUNK_STREAM, {"choices": [{"finish_reason": "abort"}]}, True),
        (CHUNK_STREAM, {"choices": [{"finish_reason": "stop", "message": {"content": "abort"}}]}, False),
        (CHUNK_STREAM, {"choices": [{"finish_reason": "stop", "logprobs": {"tokens": ["abort"]}}]}, False),
        (CHUNK_STREAM, {"error": {"message": "abort", "code": 400}}, False),
        (RESPONSES_STREAM, {"object": "response", "status": "completed", "output": [MESSAGE]}, False),
        (RESPONSES_STREAM, {"object": "response", "status": "queued", "output": []}, False),
        (RESPONSES_STREAM, {"object": "response", "status": "cancelled", "output": []}, True),
        (
            RESPONSES_STREAM,
            {"object": "response", "status": "completed", "output": [], "usage": {"output_tokens": 0}},
            True,
        ),
        (RESPONSES_STREAM, {"error": {"message": "no", "code": 400}}, False),
        (MESSAGES_STREAM, {"type": "message", "stop_reason": "end_turn"}, False),
        (MESSAGES_STREAM, {"type": "message", "content": [], "usage": {"input_tokens": 1}}, True),
        (MESSAGES_STREAM, {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, False),
        (OTHER_STREAM, {"object": "response", "status": "cancelled"}, False),
    ],
)
def test_a_plain_answer_that_its_instance_ended_by_itself_is_known(rules: StreamRules, answer, aborted):
    for separators in ((",", ":"), (", ", ": ")):
        assert rules.aborted(json.dumps(answer, separators=separators).encode()) is aborted
    assert not rules.aborted(b"")
    assert not rules.aborted(b'"abort" "error" "cancelled"')
