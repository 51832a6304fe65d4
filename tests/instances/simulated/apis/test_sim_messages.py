"""/v1/messages of the simulated server."""

import json

import pytest

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HI = [{"role": "user", "content": "hi"}]
ASKED = {"model": "sim", "messages": HI, "max_tokens": 3}
WORDS = "The quick brown fox jumps over the lazy dog. "


def test_a_message_is_streamed_as_it_is_answered_whole(sim) -> None:
    _, whole = sim.post(MESSAGES, ASKED)
    status, headers, body = sim.request("POST", MESSAGES, ASKED | {"stream": True})
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in body.decode().splitlines() if line.startswith("event: ")]
    assert [event["type"] for event in events] == names
    assert names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert whole["content"] == [{"type": "text", "text": text}]
    assert whole["stop_reason"] == events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert events[0]["message"]["usage"] == {"input_tokens": 13, "output_tokens": 0}
    assert events[-2]["usage"]["output_tokens"] == 3


def test_a_message_that_ends_by_itself_ends_the_turn(sim) -> None:
    _, answer = sim.post(MESSAGES, ASKED | {"max_tokens": 1000})
    assert answer["stop_reason"] == "end_turn"


def test_usage_tells_what_was_read_from_the_cache_and_what_was_put_there(sim) -> None:
    asked = ASKED | {"system": "Messages of their own. " + WORDS * 10}
    _, count = sim.post(COUNT, {"model": "sim", "messages": HI, "system": asked["system"]})
    tokens = count["input_tokens"]
    full = tokens // 16 * 16
    first, second = (sim.post(MESSAGES, asked)[1]["usage"] for _ in range(2))
    rest = {"input_tokens": tokens - full, "output_tokens": 3}
    assert first == rest | {"cache_creation_input_tokens": full, "cache_read_input_tokens": 0}
    assert second == rest | {"cache_creation_input_tokens": 0, "cache_read_input_tokens": full}


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_errors_have_anthropics_form(sim, path: str) -> None:
    status, answer = sim.post(path, ASKED | {"model": "other"})
    assert status == 404
    message = "The model `other` does not exist."
    assert answer == {"type": "error", "error": {"type": "NotFoundError", "message": message}}


def test_a_malformed_body_is_refused_in_openais_form_as_by_vllm(sim) -> None:
    status, answer = sim.post(MESSAGES, {"model": "sim", "messages": HI})
    assert (status, answer["error"]["code"]) == (400, 400)
    assert "max_tokens" in answer["error"]["message"]
