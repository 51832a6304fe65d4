"""The simulated server as the official client sees it."""

from itertools import pairwise
from typing import Any

import openai
import pytest

WORDS = "The quick brown fox jumps over the lazy dog. "


@pytest.fixture(scope="module")
def client(sim) -> Any:
    with openai.OpenAI(base_url=sim.url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: list[dict[str, str]], **fields: Any) -> Any:
    return client.chat.completions.create(model="sim", messages=messages, **fields)


def test_a_chat_is_streamed_as_it_is_answered_whole(client) -> None:
    messages = [{"role": "user", "content": "Tell me of foxes."}]
    whole = ask(client, messages, max_tokens=12)
    chunks = list(ask(client, messages, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    *tokens, usage = chunks
    deltas = [chunk.choices[0].delta for chunk in tokens]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in tokens] == [None] * 12 + ["length"]
    assert usage.choices == []
    assert not any("usage" in chunk.model_fields_set for chunk in tokens), "vLLM sends no null there"
    assert usage.usage.completion_tokens == whole.usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_has_no_usage_unless_asked_for(client) -> None:
    chunks = list(ask(client, [{"role": "user", "content": "hi"}], max_tokens=2, stream=True))
    assert len(chunks) == 3
    assert all(chunk.usage is None for chunk in chunks)


def test_answers_end_by_themselves_unless_told_otherwise(client) -> None:
    messages = [{"role": "user", "content": "How long?"}]
    natural = ask(client, messages)
    assert natural.choices[0].finish_reason == "stop"
    assert natural.usage.completion_tokens <= 256
    longer = natural.usage.completion_tokens + 5
    forced = ask(client, messages, max_tokens=longer, extra_body={"ignore_eos": True})
    assert (forced.choices[0].finish_reason, forced.usage.completion_tokens) == ("length", longer)
    assert forced.choices[0].message.content.startswith(natural.choices[0].message.content)


def test_a_repeated_prompt_is_cached_but_for_its_last_block(client) -> None:
    prompt = "A prompt of its own. " + WORDS * 20
    first, second = (client.completions.create(model="sim", prompt=prompt, max_tokens=1) for _ in range(2))
    assert first.usage.prompt_tokens == -(-len(prompt) // 4)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == (first.usage.prompt_tokens - 1) // 16 * 16


def test_a_growing_chat_hits_what_was_generated_too(client) -> None:
    messages = [{"role": "user", "content": "A chat of its own. " + WORDS * 5}]
    turns = []
    for _ in range(3):
        turns.append(ask(client, messages, max_tokens=40, extra_body={"ignore_eos": True}))
        messages += [
            {"role": "assistant", "content": turns[-1].choices[0].message.content},
            {"role": "user", "content": "Go on."},
        ]
    for before, after in pairwise(turn.usage for turn in turns):
        # Whole blocks, and the last token of an answer is never computed.
        assert before.total_tokens - 17 <= after.prompt_tokens_details.cached_tokens <= before.total_tokens


@pytest.mark.parametrize(
    ("prompt", "choices", "prompt_tokens"),
    [
        ("eight by", 1, 2),
        ([1, 2, 3], 1, 3),
        (["eight by", "sixteen bytes..."], 2, 6),
        ([[1, 2, 3], [4]], 2, 4),
        (["é" * 4], 1, 2),
    ],
    ids=["string", "token ids", "strings", "lists of token ids", "tokens are counted in bytes"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_all_forms_of_a_prompt_are_completed(
    client, prompt: Any, choices: int, prompt_tokens: int, stream: bool
) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = client.completions.create(model="sim", prompt=prompt, max_tokens=3, **fields)
    events = list(answer) if stream else [answer]
    texts = [""] * choices
    for event in events:
        for choice in event.choices:
            texts[choice.index] += choice.text
    assert [len(text) for text in texts] == [12] * choices
    usage = events[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt_tokens, 3 * choices)


def test_a_chat_may_have_its_content_in_parts(client) -> None:
    parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "of foxes."}]
    in_parts = ask(client, [{"role": "user", "content": parts}], max_tokens=4)
    whole = ask(client, [{"role": "user", "content": "Tell me of foxes."}], max_tokens=4)
    assert in_parts.choices[0].message.content == whole.choices[0].message.content


def test_the_model_is_listed_with_its_length(client) -> None:
    (model,) = client.models.list()
    assert (model.id, model.max_model_len) == ("sim", 131_072)


def test_errors_are_those_the_client_knows(client) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
        client.completions.create(model="other", prompt="hi")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 131072 tokens"):
        client.completions.create(model="sim", prompt="hi", max_tokens=131_072)


def test_token_ids_of_a_text_meet_its_cache(sim) -> None:
    text = "A text of its own. " + WORDS * 5
    status, tokenized = sim.post("/tokenize", {"model": "sim", "prompt": text})
    assert (status, tokenized["count"], tokenized["max_model_len"]) == (200, len(tokenized["tokens"]), 131_072)
    usage = sim.complete(text)["usage"]
    assert usage["prompt_tokens"] == tokenized["count"]
    again = sim.complete(tokenized["tokens"])["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == (tokenized["count"] - 1) // 16 * 16


def test_a_chat_is_tokenized_as_it_is_run(sim) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    _, tokenized = sim.post("/tokenize", {"messages": messages})
    _, bare = sim.post("/tokenize", {"messages": messages, "add_generation_prompt": False})
    _, answer = sim.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
    assert answer["usage"]["prompt_tokens"] == tokenized["count"] > bare["count"]


def test_an_adapter_has_a_name_and_a_cache_of_its_own(start_sim) -> None:
    server = start_sim("--prefill-tokens-per-s", "1000000", "--lora", "sql", "--lora", "poems")
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        assert {card.id: card.parent for card in client.models.list()} == {"sim": None, "sql": "sim", "poems": "sim"}
        prompt = "Who keeps what for whom? " + WORDS * 20
        cached = {}
        for model in ("sim", "sql", "sql", "poems", "sim"):
            answer = client.completions.create(model=model, prompt=prompt, max_tokens=1)
            assert answer.model == model
            cached.setdefault(model, []).append(answer.usage.prompt_tokens_details.cached_tokens > 0)
        assert cached == {"sim": [False, True], "sql": [False, True], "poems": [False]}
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="prose", prompt=prompt, max_tokens=1)
