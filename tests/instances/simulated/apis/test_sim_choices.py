"""Several answers to one prompt, and the options of streams, in chats and completions."""

import json
from collections import defaultdict
from typing import Any

import pytest

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
WORDS = "The quick brown fox jumps over the lazy dog. "
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": [{"role": "user", "content": "A chat with choices. " + WORDS * 5}]}),
    "completion": (COMPLETION, {"prompt": "A prompt with choices. " + WORDS * 5}),
}


def text_of(choice: dict[str, Any]) -> str:
    if "delta" in choice:
        return choice["delta"]["content"]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def chunks_of(sim: Any, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    _, _, content = sim.request("POST", path, body | {"stream": True})
    *events, done = [line[6:] for line in content.decode().splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.mark.parametrize("name", PROMPTS)
def test_answers_differ_and_their_prompt_counts_once(sim, name: str) -> None:
    path, body = PROMPTS[name]
    sim.request("POST", "/reset_prefix_cache")
    _, one = sim.post(path, body | {"max_tokens": 4})
    sim.request("POST", "/reset_prefix_cache")
    _, three = sim.post(path, body | {"max_tokens": 4, "n": 3})
    texts = [text_of(choice) for choice in three["choices"]]
    assert len(set(texts)) == 3
    assert texts[0] == text_of(one["choices"][0])
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] == 12
    assert three["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_a_prompt_with_several_answers_is_computed_once(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "1000000")
    path, body = PROMPTS["completion"]
    _, answer = sim.post(path, body | {"max_tokens": 1, "n": 3})
    prompt_tokens = answer["usage"]["prompt_tokens"]
    assert sim.metric("vllm:prefix_cache_hits_total") == 2 * ((prompt_tokens - 1) // 16 * 16)


@pytest.mark.parametrize("name", PROMPTS)
def test_several_answers_are_streamed_as_they_are_answered_whole(sim, name: str) -> None:
    path, body = PROMPTS[name]
    asked = body | {"max_tokens": 4, "n": 2}
    _, whole = sim.post(path, asked)
    *events, usage = chunks_of(sim, path, asked | {"stream_options": {"include_usage": True}})
    texts: defaultdict[int, str] = defaultdict(str)
    reasons: defaultdict[int, list[str | None]] = defaultdict(list)
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += text_of(choice)
            reasons[choice["index"]].append(choice["finish_reason"])
    assert [texts[index] for index in range(2)] == [text_of(choice) for choice in whole["choices"]]
    assert [(each[-1], each.count(None)) for each in reasons.values()] == [("length", len(reasons[0]) - 1)] * 2
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8


def test_lists_of_prompts_have_their_answers_side_by_side(sim) -> None:
    body = {"max_tokens": 3, "n": 2}
    _, both = sim.post(COMPLETION, body | {"prompt": ["one", "other"]})
    _, other = sim.post(COMPLETION, body | {"prompt": "other"})
    texts = [text_of(choice) for choice in both["choices"]]
    assert texts[2:] == [text_of(choice) for choice in other["choices"]]
    assert both["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("name", PROMPTS)
def test_usage_can_be_told_with_each_event(sim, name: str) -> None:
    path, body = PROMPTS[name]
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *events, _ = chunks_of(sim, path, body | {"max_tokens": 3} | options)
    told = [event["usage"]["completion_tokens"] for event in events]
    assert told == ([0] if name == "chat" else []) + [1, 2, 3]
    assert {event["usage"]["total_tokens"] - event["usage"]["completion_tokens"] for event in events} == {
        events[0]["usage"]["prompt_tokens"]
    }


def test_a_client_that_leaves_aborts_all_answers(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    connection = sim.begin({"prompt": "a text", "n": 3})
    sim.await_metric("vllm:num_requests_running", 1)
    connection.close()
    sim.await_metric("vllm:num_requests_running", 0)
    assert sim.metric("vllm:request_success_total", finished_reason="abort") == 3


@pytest.mark.parametrize(
    ("of_the_body", "of_the_header", "comes_first"),
    [(5, None, False), (5, "-1", True), (-1, "5", False), (-1, "soon", True), ("-1", None, True)],
    ids=["body", "header, sooner", "header, later", "a header that is no number", "body as a string"],
)
def test_the_header_sets_the_priority_before_the_body(
    start_sim, receive, of_the_body: int | str, of_the_header: str | None, comes_first: bool
) -> None:
    """One runs at a time, and whoever runs second never ends."""
    sim = start_sim("--prefill-tokens-per-s", "4000", "--max-num-seqs", "1")
    endless = {"prompt": "a", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    runs = sim.begin({"prompt": "x" * 16_000, "max_tokens": 1})
    sim.await_metric("vllm:num_requests_running", 1)
    content = json.dumps(endless | {"priority": of_the_body}).encode()
    header = b"" if of_the_header is None else b"x-vLLM-priority: %b\r\n" % of_the_header.encode()
    asked = sim.connect()
    asked.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + header)
    asked.sendall(b"content-length: %d\r\n\r\n%b" % (len(content), content))
    sim.await_metric("vllm:num_requests_waiting", 1)
    other = sim.begin(endless | {"priority": 0})
    sim.await_metric("vllm:num_requests_waiting", 2)
    receive(runs, b"usage")
    receive(asked if comes_first else other, b'"text"')
    assert sim.metric("vllm:num_requests_waiting") == 1
    for connection in (runs, asked, other):
        connection.close()
