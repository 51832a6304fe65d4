"""What of a stream reaches the client, wherever reads cut it. The streams are those of vLLM 0.32."""

import json

import pytest

from dualmap.router.requests.answer_events import MAX_HELD_BYTES, AnswerEvents

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


ABORT = token("", "abort")
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
    "comments": (b": ping\n\n" + TEXT + b": ping\n\n" + DONE, True, b": ping\n\n" + TEXT + b": ping\n\n" + DONE, False),
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
        if events.failed:
            break
    return out


@pytest.mark.parametrize(("stream", "hides_usage", "expected", "failed"), STREAMS.values(), ids=STREAMS)
def test_what_is_relayed_is_the_same_wherever_reads_cut_the_stream(stream, hides_usage, expected, failed):
    cuts = [[stream[:i], stream[i:]] for i in range(len(stream) + 1)]
    cuts += [[stream[i : i + size] for i in range(0, len(stream), size)] + [b""] for size in (1, 7, 100)]
    for reads in cuts:
        events = AnswerEvents(hides_usage)
        out = relayed(events, reads)
        assert events.failed is failed
        assert out == expected
        assert bool(events.usage_event) is (hides_usage and USAGE.strip() in stream)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_each_event_is_relayed_with_its_last_byte_and_the_roles_with_the_event_behind_them(end):
    events = AnswerEvents(hides_usage=True)
    roles, first, second = (event.replace(b"\n\n", end) for event in (ROLE, token("a"), token("b")))
    assert events.feed(roles, False) == b""
    assert events.feed(roles, False) == b""
    assert events.feed(first[:-1], False) == b""
    assert events.feed(first[-1:], False) == roles * 2 + first
    assert events.feed(second + first[:9], False) == second
    assert events.feed(first[9:], False) == first


def test_an_event_too_large_to_be_held_is_let_through_as_it_comes():
    events = AnswerEvents(hides_usage=True)
    start = b'data: {"choices":[{"token_ids":[' + b"1," * (MAX_HELD_BYTES // 2)
    assert events.feed(start, False) == start
    assert events.feed(b"1]}]}", False) == b""
    assert events.feed(b"\n\n" + USAGE + DONE, True) == b"1]}]}\n\n" + DONE


def test_roles_too_large_to_be_held_are_let_through():
    events = AnswerEvents(hides_usage=True)
    roles = ROLE.replace(b'"prompt_token_ids":null', b'"prompt_token_ids":[%b]' % (b"1," * (MAX_HELD_BYTES // 2)))
    assert events.feed(roles, False) == roles
