"""What the simulated server refuses, with vLLM's statuses and words, and that it goes on serving afterwards."""

import json
from typing import Any

import pytest

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (COMPLETION, b"", "not a valid request"),
        (COMPLETION, b"{", "not a valid request"),
        (COMPLETION, b"[]", "Expected `object`"),
        (COMPLETION, b'"text"', "Expected `object`"),
        (COMPLETION, b'{"prompt":"\xff"}', "not a valid request"),
        (COMPLETION, b'{"prompt":"\\ud800 and more"}', "surrogate"),
        (COMPLETION, b'{"prompt":' + b"[" * 100_000, "not a valid request"),
        (COMPLETION, b'{"x":' + b'{"a":' * 100_000, "not a valid request"),
        (COMPLETION, {}, "`prompt` must be"),
        (COMPLETION, {"prompt": ""}, "`prompt` must be"),
        (COMPLETION, {"prompt": []}, "`prompt` must be"),
        (COMPLETION, {"prompt": [[]]}, "`prompt` must be"),
        (COMPLETION, {"prompt": [1, "a"]}, "`prompt` must be"),
        (COMPLETION, {"prompt": [[1], ["a"]]}, "`prompt` must be"),
        (COMPLETION, {"prompt": [-1]}, "`prompt` must be"),
        (COMPLETION, {"prompt": [1 << 32]}, "`prompt` must be"),
        (COMPLETION, {"prompt": [1.5]}, "`prompt` must be"),
        (COMPLETION, {"prompt": {"a": 1}}, "`$.prompt`"),
        (COMPLETION, {"prompt": ["a"] * 1025}, "list of up to 1024"),
        (COMPLETION, {"prompt": "a", "model": 5}, "`$.model`"),
        (COMPLETION, {"prompt": "a", "max_tokens": "five"}, "`$.max_tokens`"),
        (COMPLETION, {"prompt": "a", "max_tokens": 0}, "max_tokens must be at least 1, got 0."),
        (COMPLETION, {"prompt": "a", "max_tokens": -(10**30)}, "max_tokens must be at least 1"),
        (COMPLETION, {"prompt": "a", "max_tokens": 10**30}, "maximum context length"),
        (COMPLETION, {"prompt": "a", "stream": "maybe"}, "`$.stream`"),
        (COMPLETION, {"prompt": "a", "stream_options": {"include_usage": True}}, "when `stream=True`"),
        (COMPLETION, {"prompt": "a", "priority": "high"}, "`$.priority`"),
        (COMPLETION, {"prompt": ["a"] * 600, "n": 2}, "at most 1024 answers"),
        (COMPLETION, {"prompt": "a", "n": 200, "ignore_eos": True, "max_tokens": 130_000}, "tokens together"),
        (COMPLETION, {"prompt": "a", "n": 200, "min_tokens": 120_000, "max_tokens": 130_000}, "tokens together"),
        (CHAT, {}, "`messages` must not be empty."),
        (CHAT, {"messages": []}, "`messages` must not be empty."),
        (CHAT, {"messages": "hi"}, "`$.messages`"),
        (CHAT, {"messages": ["hi"]}, "`$.messages[0]`"),
        (CHAT, {"messages": [{"content": "hi"}]}, "`role`"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "`$.messages[0].content`"),
        (CHAT, {"messages": HI, "max_completion_tokens": 0, "max_tokens": 5}, "max_tokens must be at least 1, got 0."),
        ("/tokenize", {}, "must have `prompt` or `messages`"),
        ("/tokenize", {"prompt": [1]}, "`$.prompt`"),
    ],
)
def test_a_malformed_body_is_refused_with_the_reason(sim, path: str, body: Any, message: str) -> None:
    status, answer = sim.post(path, body)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (400, "BadRequestError", 400)
    assert message in answer["error"]["message"]
    assert sim.request("GET", "/health")[0] == 200


def test_too_long_a_request_is_refused_in_the_words_of_vllm(start_sim) -> None:
    sim = start_sim("--max-model-len", "20")
    status, answer = sim.post(COMPLETION, {"prompt": "x" * 40, "max_tokens": 11})
    assert status == 400
    assert answer["error"]["message"] == (
        "This model's maximum context length is 20 tokens. However, you requested 11 output tokens and your prompt"
        " contains at least 10 input tokens, for a total of at least 21 tokens. Please reduce the length of the input"
        " prompt or the number of requested output tokens. (parameter=input_tokens, value=10)"
    )
    assert answer["error"]["param"] == "input_tokens"
    assert sim.complete("x" * 40, 10)["usage"]["total_tokens"] == 20


def test_a_chat_without_max_tokens_may_use_what_the_context_leaves(start_sim) -> None:
    sim = start_sim("--max-model-len", "20")
    body = {"messages": HI, "ignore_eos": True}
    _, answer = sim.post(CHAT, body)
    assert answer["usage"]["total_tokens"] == 20
    status, answer = sim.post(CHAT, {"messages": [{"role": "user", "content": "x" * 80}]})
    assert (status, answer["error"]["param"]) == (400, "input_tokens")


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/tokenize"])
def test_another_model_is_not_found(sim, path: str) -> None:
    status, answer = sim.post(path, {"model": "other", "prompt": "a", "messages": HI})
    assert (status, answer["error"]["type"]) == (404, "NotFoundError")
    assert answer["error"]["message"] == "The model `other` does not exist."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/v1/files", 404),
        ("GET", COMPLETION, 405),
        ("POST", "/health", 405),
        ("GET", "/reset_prefix_cache", 405),
    ],
)
def test_other_paths_and_methods_are_refused(sim, method: str, path: str, status: int) -> None:
    assert sim.request(method, path)[0] == status


def test_requests_over_the_queue_limit_are_shed_without_retry_after(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001", "--max-num-queued-reqs", "3")
    held = [sim.begin({"prompt": "a text", "stream": True}) for _ in range(2)]
    sim.await_metric("vllm:num_requests_running", 1)  # one step takes all that has come when it starts
    sim.await_metric("vllm:num_requests_waiting", 1)
    status, headers, body = sim.request("POST", COMPLETION, {"prompt": ["a", "b"]})
    assert (status, json.loads(body)["error"]["code"]) == (503, 503)
    assert "retry-after" not in headers
    held.append(sim.begin({"prompt": "b"}))
    sim.await_metric("vllm:num_requests_waiting", 2)
    assert sim.request("POST", COMPLETION, {"prompt": "c"})[0] == 503
    for connection in held:
        connection.close()
    sim.await_metric("vllm:num_requests_waiting", 0)
    held = [sim.begin({"prompt": "d", "stream": True})]
    assert b"200 OK" in held[0].recv(4096)
    held[0].close()
