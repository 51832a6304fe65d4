"""Token ids in and out: /tokenize, /detokenize and /inference/v1/generate of the simulated server."""

import json
from typing import Any

import pytest

GENERATE = "/inference/v1/generate"
TEXT = "A text of some tokens, for all three. " * 4  # whole tokens, of four bytes


def ids_of(sim: Any, text: str) -> list[int]:
    return sim.post("/tokenize", {"prompt": text})[1]["tokens"]


def test_a_text_comes_back_from_its_tokens(sim) -> None:
    assert sim.post("/detokenize", {"tokens": ids_of(sim, TEXT)}) == (200, {"prompt": TEXT})
    assert sim.post("/detokenize", {"tokens": []}) == (200, {"prompt": ""})


def test_tokens_are_shown_as_texts_if_asked_for(sim) -> None:
    _, answer = sim.post("/tokenize", {"prompt": "four by four", "return_token_strs": "yes"})
    assert answer["token_strs"] == ["four", " by ", "four"]


def test_a_chat_that_goes_on_is_tokenized_without_its_end(sim) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "So"}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    _, answer = sim.post("/tokenize", {"messages": messages, **options})
    _, text = sim.post("/detokenize", {"tokens": answer["tokens"]})
    assert text["prompt"].endswith("<|im_start|>assistant\nSo")
    status, answer = sim.post("/tokenize", {"messages": messages, "continue_final_message": True})
    assert (status, answer["error"]["message"].split(" ")[0]) == (400, "Cannot")


def test_tokens_in_are_the_text_itself_and_tokens_out_its_answer(sim) -> None:
    completed = sim.complete(TEXT, 5)
    status, generated = sim.post(GENERATE, {"token_ids": ids_of(sim, TEXT), "sampling_params": {"max_tokens": 5}})
    assert status == 200
    (choice,) = generated["choices"]
    text = sim.post("/detokenize", {"tokens": choice["token_ids"]})[1]["prompt"]
    assert text == completed["choices"][0]["text"]
    assert choice["finish_reason"] == "length"
    assert generated["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("mode", ["tokens", "text"])
def test_tokens_are_streamed_as_they_are_answered_whole(sim, mode: str) -> None:
    asked = {"token_ids": [5, 6], "sampling_params": {"max_tokens": 3}, "output_mode": mode, "return_token_ids": True}
    _, whole = sim.post(GENERATE, asked)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    _, _, content = sim.request("POST", GENERATE, asked | options)
    *lines, done = [line[6:] for line in content.decode().splitlines() if line]
    *events, last = map(json.loads, lines)
    assert done == "[DONE]"
    assert [event.get("prompt_token_ids") for event in events] == [[5, 6], None, None]
    choices = [event["choices"][0] for event in events]
    assert [token for choice in choices for token in choice["token_ids"]] == whole["choices"][0]["token_ids"]
    assert "".join(choice.get("text", "") for choice in choices) == whole["choices"][0].get("text", "")
    assert (last["choices"], last["usage"]) == ([], whole["usage"])


def test_an_id_that_a_client_gives_twice_is_no_matter(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    asked = {"token_ids": [5], "sampling_params": {}, "request_id": "mine"}
    held = [sim.begin(asked, GENERATE) for _ in range(2)]
    sim.await_metric("vllm:num_requests_waiting", 1)
    for connection in held:
        connection.close()
    sim.await_metric("vllm:num_requests_running", 0)


@pytest.mark.parametrize("token_ids", [[], [-1], [1 << 32], "hi", [1.5], None])
def test_what_are_no_token_ids_is_refused(sim, token_ids: Any) -> None:
    assert sim.post(GENERATE, {"token_ids": token_ids, "sampling_params": {}})[0] == 400
