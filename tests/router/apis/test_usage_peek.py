"""`usage` found in the last bytes of answers."""

import json

import pytest

from dualmap.router.apis.usage import NO_USAGE, Usage, peek_usage
from dualmap.router.tokens.token_ratio import MAX_BYTES_PER_TOKEN, MAX_MODELS, MIN_BYTES_PER_TOKEN, TokenRatio

VLLM_USAGE = {
    "prompt_tokens": 40,
    "total_tokens": 52,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 32},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_usage_of_a_plain_answer(indent):
    answer = {"choices": [{"text": "x"}], "usage": VLLM_USAGE, "prompt_logprobs": None, "kv_transfer_params": None}
    assert peek_usage(json.dumps(answer, indent=indent).encode()) == Usage(40, 12, 32)


def test_usage_of_a_stream_stands_in_the_event_before_the_last():
    events = b'data: {"choices":[{"delta":{}}],"usage":null}\n\n'
    events += b"data: " + json.dumps({"choices": [], "usage": VLLM_USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
    assert peek_usage(events) == Usage(40, 12, 32)


RESPONSES_USAGE = {
    "input_tokens": 40,
    "input_tokens_details": {"cached_tokens": 32, "cache_write_tokens": 0, "cached_tokens_per_turn": []},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 52,
}
MESSAGES_USAGE = {
    "input_tokens": 5,
    "output_tokens": 12,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 32,
}


@pytest.mark.parametrize("usage", [RESPONSES_USAGE, MESSAGES_USAGE])
def test_usage_in_the_names_of_other_apis(usage):
    start = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":1,"output_tokens":0}}}\n\n'
    event = f'event: x.completed\ndata: {{"response":{{"output":["usage"],"usage":{json.dumps(usage)}}}}}\n\n'
    assert peek_usage(start + event.encode() + b'event: message_stop\ndata: {"type":"message_stop"}\n\n') == Usage(
        40, 12, 32
    )
    assert peek_usage(start) == Usage(1, 0, None)


def test_what_is_not_said_is_none():
    assert peek_usage(b'{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":null}}') == Usage(
        5, 1, None
    )
    assert peek_usage(b'{"usage":{"prompt_tokens":5,"total_tokens":5}}') == Usage(5, None, None)


@pytest.mark.parametrize("tail", [b"", b'{"usage":null}', b'"prompt_tokens":5', b'{"usage":{"prompt_tokens":"5"}}'])
def test_no_usage(tail):
    assert peek_usage(tail) == NO_USAGE


def test_an_answer_that_talks_of_usage_cannot_pass_for_it():
    text = '"usage":{"prompt_tokens":999}'
    answer = json.dumps({"usage": VLLM_USAGE, "choices": [{"text": text}]}).encode()
    assert peek_usage(answer) == Usage(40, 12, 32)


def test_the_ratio_stays_within_bounds_whatever_is_observed():
    ratio = TokenRatio()
    for _ in range(100):
        ratio.observe("images", 10_000_000, 10)
        ratio.observe("dense", 10, 100_000)
    assert ratio.prompt_tokens("images", 16_000) == 16_000 / MAX_BYTES_PER_TOKEN
    assert ratio.prompt_tokens("dense", 1000) == 1000 / MIN_BYTES_PER_TOKEN


def test_one_odd_answer_does_not_overturn_what_was_learned():
    ratio = TokenRatio()
    for _ in range(100):
        ratio.observe("m", 30_000, 10_000)
    ratio.observe("m", 1_000, 1)
    assert ratio.prompt_tokens("m", 30_000) == pytest.approx(10_000, rel=0.02)


def test_a_prompt_has_at_least_one_token():
    assert TokenRatio().prompt_tokens("m", 0) == 1


def test_names_of_models_cannot_fill_the_memory():
    ratio = TokenRatio()
    for number in range(2 * MAX_MODELS):
        ratio.observe(f"m{number}", 100, 100)
    assert len(ratio._models) == MAX_MODELS
