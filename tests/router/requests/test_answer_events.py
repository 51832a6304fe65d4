"""What of a stream reaches the client, wherever reads cut it. The streams are those of vLLM 0.32."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.apis.stream_rules import CHUNK_STREAM, MESSAGES_STREAM, OTHER_STREAM, RESPONSES_STREAM
from dualmap.router.requests.answer_events import FAILED, MAX_HELD_BYTES, NOTHING_OF_IT, AnswerEvents

ABOUT = '"id":"chatcmpl-97d65b8076327b82","object":"chat.completion.chunk","created":1795409528,"model":"tiny"'
ROLE = (
    f'data: {{{ABOUT},"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,'
    '"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
).encode()
USAGE = (
    f'data: {{{ABOUT},"choices":[],"usage":{{"prompt_tokens":19,"total_tokens":24,"completion_tokens":5,'
    '"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0}},'
    '"system_fingerprint":"vllm-0.32.0-9cad0de7"}\n\n'
).encode()
USAGE_KEY = b"prompt_tokens_details"
DONE = b"data: [DONE]\n\n"
COMPLETION = (
    b'data: {"id":"cmpl-bc7a939533e87b86","object":"text_completion","created":1795409545,"model":"tiny","choices":'
    b'[{"index":0,"text":" removed","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
    b'"token_ids":null}]}\n\n'
)


def token(text: str, finish_reason: str | None = None, logprobs: str = "null") -> bytes:
    content, reason = json.dumps(text), json.dumps(finish_reason)
    choice = f'{{"index":0,"delta":{{"content":{content}}},"logprobs":{logprobs},"finish_reason":{reason}}}'
    return f'data: {{{ABOUT},"choices":[{choice}]}}\n\n'.encode()


def error(code: int) -> bytes:
    content = {"message": 'Died, "code": 400 it said', "type": "InternalServerError", "param": None, "code": code}
    return f"data: {json.dumps({'error': content})}\n\n".encode()


def spaced(event: bytes) -> bytes:
    return b"data: %b\n\n" % json.dumps(json.loads(event.removeprefix(b"data: "))).encode()


def over_lines(event: bytes) -> bytes:
    lines = json.dumps(json.loads(event.removeprefix(b"data: ")), indent=1).splitlines()
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


def with_usage(event: bytes, usage: str = '{"prompt_tokens":19,"total_tokens":20,"completion_tokens":1}') -> bytes:
    return event.replace(b"]}\n\n", f'],"usage":{usage}}}\n\n'.encode())


def no_usage(events: bytes) -> bytes:
    return with_usage(events, "null")


def error_beside_choice() -> bytes:
    return token("", "error").replace(b"]}\n\n", b'],"error":{"code":502,"message":"gone"}}\n\n')


PING = b": keep-alive\n\n"
ABORT = token("", "abort")
LAST_WITH_USAGE = with_usage(token("c", "stop"))
FORCED = (
    ROLE[:-3] + b',"usage":{"prompt_tokens":19,"total_tokens":19,"completion_tokens":0}}\n\n' + with_usage(token("a"))
)
FORCED_COMPLETION = with_usage(COMPLETION)
OTHER_ROLE = ROLE.replace(b'"content":""', b'"content":null,"tool_calls":[],"refusal":null')
FILTER = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
OLD_ERROR = b'data: {"object":"error","message":"died","type":"InternalServerError","param":null,"code":500}\n\n'
TRICKY = [  # what a model may say, and what the answer's other fields may hold
    token('{"choices":[],"usage":{"prompt_tokens":9}}'),
    token('"finish_reason":"abort"'),
    token('\n\ndata: {"error": {"code": 500}}\n\ndata: [DONE]\n\n'),
    token("x", logprobs='{"content":[{"token":"abort","logprob":-1.0,"top_logprobs":[]}]}'),
    token("[]"),
]
TEXT = ROLE + token(" only") + token('say "quotes" and \\ slashes') + token("wards", "length")
# name: stream, usage is hidden, what is relayed, whether it failed
STREAMS = {
    "usage hidden": (TEXT + USAGE + DONE, True, TEXT + DONE, False),
    "usage asked for": (TEXT + USAGE + DONE, False, TEXT + USAGE + DONE, False),
    "no usage": (TEXT + DONE, True, TEXT + DONE, False),
    "completion": (COMPLETION * 2 + USAGE + DONE, True, COMPLETION * 2 + DONE, False),
    "several choices": (ROLE * 2 + token("a") + USAGE + DONE, True, ROLE * 2 + token("a") + DONE, False),
    "crlf": ((TEXT + USAGE + DONE).replace(b"\n", b"\r\n"), True, (TEXT + DONE).replace(b"\n", b"\r\n"), False),
    "no end": (TEXT + b"data: [DONE]", True, TEXT + b"data: [DONE]", False),
    "roles alone": (ROLE, True, ROLE, False),
    "comments": (PING * 2 + TEXT + PING + DONE, True, TEXT + PING + DONE, False),
    "comments behind the roles": (ROLE + PING + token("a") + DONE, True, ROLE + token("a") + DONE, False),
    "comments alone": (PING + b":\n\n", True, b"", False),
    "a comment inside an event": (b": a\n" + TEXT + b": b\n" + ABORT + DONE, True, b": a\n" + TEXT, True),
    "time to reconnect": (b"retry: 3000\n\n" + TEXT + DONE, True, b"retry: 3000\n\n" + TEXT + DONE, False),
    "more blank lines": (b"\n" + TEXT + b"\n\n" + DONE, True, b"\n" + TEXT + b"\n\n" + DONE, False),
    "usage with spaces": (TEXT + spaced(USAGE) + DONE, True, TEXT + DONE, False),
    "usage over lines": (TEXT + over_lines(USAGE) + DONE, True, TEXT + DONE, False),
    "usage in the last token": (TEXT + LAST_WITH_USAGE + DONE, True, TEXT + LAST_WITH_USAGE + DONE, False),
    "usage forced": (FORCED + USAGE + DONE, True, FORCED + USAGE + DONE, False),
    "usage forced, completion": (FORCED_COMPLETION + USAGE + DONE, True, FORCED_COMPLETION + USAGE + DONE, False),
    "no usage said": (no_usage(TEXT) + USAGE + DONE, True, no_usage(TEXT) + DONE, False),
    "no space": (
        TEXT.replace(b"data: ", b"data:") + USAGE + DONE,
        True,
        TEXT.replace(b"data: ", b"data:") + DONE,
        False,
    ),
    "roles of others": (OTHER_ROLE + ABORT + DONE, True, b"", True),
    "filter first": (FILTER + error(500) + DONE, True, b"", True),
    "error, older": (TEXT + OLD_ERROR + DONE, True, TEXT, True),
    "error beside a choice": (TEXT + error_beside_choice() + DONE, True, TEXT, True),
    "engine could not": (ROLE + token("", "error") + DONE, True, b"", True),
    "error without a code": (b'data: {"error": "died"}\n\n' + DONE, True, b"", True),
    "empty": (b"", True, b"", False),
    "client's error": (TEXT + error(400) + DONE, True, TEXT + error(400) + DONE, False),
    "client's error first": (error(422) + DONE, True, error(422) + DONE, False),
    "aborted": (TEXT + ABORT + DONE, True, TEXT, True),
    "aborted, spaces": (TEXT + ABORT.replace(b'":', b'": ') + DONE, True, TEXT, True),
    "aborted at once": (ROLE + ABORT + DONE, True, b"", True),
    "error": (TEXT + error(500) + DONE, False, TEXT, True),
    "error at once": (error(503) + DONE, True, b"", True),
    "error after roles": (ROLE + error(500) + DONE, True, b"", True),
    "named error": (TEXT + b"event: error\n" + error(500), True, TEXT, True),
    "amid tokens": (
        TEXT + token("a") + USAGE + token("b") + ABORT + token("c"),
        True,
        TEXT + token("a") + token("b"),
        True,
    ),
    **{
        f"text {i}": (start + text + token("b") + DONE, True, start + text + token("b") + DONE, False)
        for i, (start, text) in enumerate((start, text) for start in (ROLE, ROLE + token("a")) for text in TRICKY)
    },
}


def relayed(events: AnswerEvents, reads: list[bytes]) -> bytes:
    """What comes out until the stream has failed or ended."""
    out = b""
    for i, read in enumerate(reads):
        out += events.feed(read, i == len(reads) - 1)
        if events.notice is FAILED:
            break
    return out


@pytest.mark.parametrize(("stream", "hides_usage", "expected", "failed"), STREAMS.values(), ids=STREAMS)
def test_what_is_relayed_is_the_same_wherever_reads_cut_the_stream(stream, hides_usage, expected, failed):
    cuts = [[stream[:i], stream[i:]] for i in range(len(stream) + 1)]
    cuts += [[stream[i : i + size] for i in range(0, len(stream), size)] + [b""] for size in (1, 7, 100)]
    for reads in cuts:
        events = AnswerEvents(CHUNK_STREAM, hides_usage)
        out = relayed(events, reads)
        assert (events.notice is FAILED) is failed
        assert out == expected
        assert bool(events.usage_event) is (hides_usage and USAGE_KEY in stream and USAGE_KEY not in expected)


def named(name: str, **fields) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, separators=(',', ':'))}\n\n".encode()


def response(name: str, status: str, **fields) -> bytes:
    return named(f"response.{name}", response={"object": "response", "status": status, "error": None, **fields})


def delta(text: str) -> bytes:
    return named("response.output_text.delta", content_index=0, delta=text, sequence_number=len(text))


def text_delta(text: str) -> bytes:
    return named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


CREATED = response("created", "in_progress") + response("in_progress", "in_progress")
ADDED = named("response.output_item.added", item={}) + named("response.content_part.added", part={})
COMPLETED = response("completed", "completed", output=[{}], usage={"output_tokens": 3})
CANCELLED = response("completed", "cancelled", output=[{}], usage={"output_tokens": 3})
FAILED_RESPONSE = response("failed", "failed").replace(
    b'"error":null', b'"error":{"code":"server_error","message":"no"}'
)
RESPONSE = CREATED + ADDED + delta("a") + delta('say "response" \n\n "error"') + delta("b")
START = named("message_start", message={"stop_reason": None}) + named("content_block_start", index=0)
STOP = named("message_delta", delta={"stop_reason": "end_turn"}) + named("message_stop")
ABORTED_MESSAGE = named("message_delta", delta={"stop_reason": None})
PINGED = named("ping")
OVERLOADED = named("error", error={"type": "overloaded_error", "message": "no"})
TOO_LONG = named("error", error={"type": "invalid_request_error", "message": "no"})
SPEECH = named("speech.audio.delta", audio="YWJj") + named("speech.audio.done")
# name: rules, stream, what is relayed, whether it failed
OTHER_STREAMS = {
    "response": (RESPONSES_STREAM, RESPONSE + COMPLETED, RESPONSE + COMPLETED, False),
    "response, comments": (RESPONSES_STREAM, CREATED + PING + delta("a") + PING, CREATED + delta("a") + PING, False),
    "response, cancelled": (RESPONSES_STREAM, RESPONSE + CANCELLED, RESPONSE, True),
    "response, failed": (RESPONSES_STREAM, RESPONSE + FAILED_RESPONSE, RESPONSE, True),
    "response, failed at once": (RESPONSES_STREAM, CREATED + ADDED + FAILED_RESPONSE, b"", True),
    "response, error": (RESPONSES_STREAM, RESPONSE + named("error", code="500", message="no"), RESPONSE, True),
    "response, preludes alone": (RESPONSES_STREAM, CREATED + ADDED, CREATED + ADDED, False),
    "message": (
        MESSAGES_STREAM,
        START + text_delta("a") + PINGED + text_delta('"stop_reason":null') + text_delta("c") + STOP,
        START + text_delta("a") + PINGED + text_delta('"stop_reason":null') + text_delta("c") + STOP,
        False,
    ),
    "message, aborted": (MESSAGES_STREAM, START + text_delta("a") + ABORTED_MESSAGE, START + text_delta("a"), True),
    "message, aborted at once": (MESSAGES_STREAM, START + PINGED + ABORTED_MESSAGE + STOP, b"", True),
    "message, overloaded": (MESSAGES_STREAM, PINGED + OVERLOADED, b"", True),
    "message, overloaded later": (MESSAGES_STREAM, START + text_delta("a") + OVERLOADED, START + text_delta("a"), True),
    "message, too long": (MESSAGES_STREAM, TOO_LONG, TOO_LONG, False),
    "speech": (OTHER_STREAM, PING + SPEECH, SPEECH, False),
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("rules", "stream", "expected", "failed"), OTHER_STREAMS.values(), ids=OTHER_STREAMS)
def test_so_it_is_with_streams_of_other_apis(rules, stream, expected, failed, end):
    stream, expected = stream.replace(b"\n", end), expected.replace(b"\n", end)
    cuts = [[stream[:i], stream[i:]] for i in range(len(stream) + 1)]
    cuts += [[stream[i : i + size] for i in range(0, len(stream), size)] + [b""] for size in (1, 7, 100)]
    for reads in cuts:
        events = AnswerEvents(rules, hides_usage=False)
        assert relayed(events, reads) == expected
        assert (events.notice is FAILED) is failed


@pytest.mark.parametrize(
    ("rules", "event", "held", "comment"),
    [
        (CHUNK_STREAM, token("a"), ROLE, PING),
        (RESPONSES_STREAM, delta("a"), CREATED, PING),
        (MESSAGES_STREAM, text_delta("a"), START, PING),
        (MESSAGES_STREAM, text_delta("a"), START, PINGED),
        (OTHER_STREAM, SPEECH, b"", PING),
    ],
)
def test_what_holds_nothing_of_the_answer_is_noticed(rules, event, held, comment):
    events = AnswerEvents(rules, hides_usage=False)
    assert events.feed(held + comment, False) == b""
    assert events.notice is None
    assert events.feed(event, False).endswith(event)
    assert events.notice is None
    assert events.feed(comment, False) == comment
    assert events.notice is NOTHING_OF_IT
    events.notice = None
    assert events.feed(comment + event, False) == comment + event
    assert events.notice is None


BITS = [
    *(ROLE, token("a"), ABORT, USAGE, error(500), PING, DONE, CREATED, delta("b"), COMPLETED, FAILED_RESPONSE, START),
    *(text_delta("c"), STOP, OVERLOADED, b"\n", b"\r\n\r\n", b"data: ", b'{"error":', b"\xff", b":", b"}"),
]


@given(
    st.sampled_from([CHUNK_STREAM, RESPONSES_STREAM, MESSAGES_STREAM, OTHER_STREAM]),
    st.lists(st.sampled_from(BITS)),
    st.data(),
)
def test_whatever_comes_is_relayed_in_order_and_raises_nothing(rules, bits, data):
    stream = bytearray(b"".join(bits))
    for _ in range(data.draw(st.integers(0, 3)) if stream else 0):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(1, 300))
    reads = [bytes(stream[i : i + size]) for i in range(0, len(stream), size)] + [b""]
    out = iter(relayed(AnswerEvents(rules, data.draw(st.booleans())), reads))
    stream_bytes = iter(bytes(stream))
    assert all(byte in stream_bytes for byte in out)  # nothing is made up


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_each_event_is_relayed_with_its_last_byte_and_the_roles_with_the_event_behind_them(end):
    events = AnswerEvents(CHUNK_STREAM, hides_usage=True)
    roles, first, second = (event.replace(b"\n\n", end) for event in (ROLE, token("a"), token("b")))
    assert events.feed(roles, False) == b""
    assert events.feed(roles, False) == b""
    assert events.feed(first[:-1], False) == b""
    assert events.feed(first[-1:], False) == roles * 2 + first
    assert events.feed(second + first[:9], False) == second
    assert events.feed(first[9:], False) == first


def test_an_event_too_large_to_be_held_is_let_through_as_it_comes():
    events = AnswerEvents(CHUNK_STREAM, hides_usage=True)
    start = b'data: {"choices":[{"token_ids":[' + b"1," * (MAX_HELD_BYTES // 2)
    assert events.feed(start, False) == start
    assert events.feed(b"1]}]}", False) == b""
    assert events.feed(b"\n\n" + USAGE + DONE, True) == b"1]}]}\n\n" + DONE


def test_roles_too_large_to_be_held_are_let_through():
    events = AnswerEvents(CHUNK_STREAM, hides_usage=True)
    roles = ROLE.replace(b'"prompt_token_ids":null', b'"prompt_token_ids":[%b]' % (b"1," * (MAX_HELD_BYTES // 2)))
    assert events.feed(roles, False) == roles
