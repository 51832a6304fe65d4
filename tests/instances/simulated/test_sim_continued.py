"""Simulated answers tell the ids of their tokens and are gone on with where they end, as if nothing had been."""

import json
from typing import Any

import pytest

from dualmap.instances.simulated.words import WORDS, answer_bytes, answered_tokens, text_of, text_of_token

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
QUESTIONS = {
    CHAT: {"messages": [{"role": "user", "content": "What is lost, and what comes twice?"}]},
    COMPLETION: {"prompt": "What is lost, and what comes twice? "},
}
TOKENS = 60  # one character of theirs is split, or two


def stream(sim: Any, path: str, **fields: Any) -> list[dict[str, Any]]:
    asked = {"stream": True, "return_token_ids": True, "ignore_eos": True, "max_tokens": TOKENS, **fields}
    _, _, body = sim.request("POST", path, asked)
    events = body.decode().split("\n\n")[:-2]
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_in(choice: dict[str, Any]) -> str:
    return choice["delta"]["content"] if "delta" in choice else choice["text"]


def ids_in(chunks: list[dict[str, Any]]) -> tuple[list[int], list[list[int]], list[str]]:
    """The prompt's ids; of each chunk with a token its ids and its text."""
    (prompt,) = [
        ids for chunk in chunks if (ids := chunk.get("prompt_token_ids") or chunk["choices"][0].get("prompt_token_ids"))
    ]
    told = [choice for chunk in chunks if (choice := chunk["choices"][0]).get("token_ids")]
    return prompt, [choice["token_ids"] for choice in told], [text_in(choice) for choice in told]


@pytest.mark.parametrize("path", QUESTIONS)
def test_an_answer_is_gone_on_with_after_any_of_its_tokens(sim, path) -> None:
    prompt, ids, texts = ids_in(stream(sim, path, **QUESTIONS[path]))
    assert [len(each) for each in ids] == [1] * TOKENS
    whole = "".join(texts)
    split = texts.index("") + 1  # tokens, the last of which ends within a character
    for cut in (1, split, split + 1, TOKENS - 1):
        sent = [token for each in ids[:cut] for token in each]
        chunks = stream(sim, COMPLETION, prompt=prompt + sent, max_tokens=TOKENS - cut)
        same_prompt, rest_ids, rest = ids_in(chunks)
        assert (same_prompt, rest_ids) == (prompt + sent, ids[cut:])
        if texts[cut - 1]:  # the client has all of the tokens' text
            assert "".join(texts[:cut] + rest) == whole, cut
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", QUESTIONS)
def test_an_answer_that_is_gone_on_with_ends_by_itself_where_it_would_have(sim, path) -> None:
    asked = QUESTIONS[path] | {"ignore_eos": False, "max_tokens": 1000}
    chunks = stream(sim, path, **asked)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    prompt, ids, _ = ids_in(chunks)
    sent = [token for each in ids[:9] for token in each]
    rest = stream(sim, COMPLETION, prompt=prompt + sent, ignore_eos=False, max_tokens=991)
    assert rest[-1]["choices"][0]["finish_reason"] == "stop"
    assert ids_in(rest)[1] == ids[9:]


def test_a_chat_is_gone_on_with_by_its_text(sim) -> None:
    texts = ids_in(stream(sim, CHAT, **QUESTIONS[CHAT]))[2]
    sent, whole = "".join(texts[:10]), "".join(texts)
    messages = [*QUESTIONS[CHAT]["messages"], {"role": "assistant", "content": sent}]
    asked = {"add_generation_prompt": False, "continue_final_message": True, "max_tokens": TOKENS - 10}
    assert sent + "".join(ids_in(stream(sim, CHAT, messages=messages, **asked))[2]) == whole


@pytest.mark.parametrize("path", QUESTIONS)
def test_a_token_that_ends_within_a_character_has_no_text_yet(sim, path) -> None:
    chunks = stream(sim, path, **QUESTIONS[path])
    _, ids, texts = ids_in(chunks)
    assert 1 <= texts.count("") <= 2
    after = [texts[place + 1] for place, text in enumerate(texts) if not text and place + 1 < len(texts)]
    assert all(len(text) == 7 and not text.isascii() for text in after)
    status, told = sim.post("/detokenize", {"tokens": [token for each in ids for token in each]})
    assert (status, told["prompt"].rstrip("\ufffd").startswith("".join(texts))) == (200, True)
    plain = sim.post(path, QUESTIONS[path] | {"max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True})[1]
    choice = plain["choices"][0]
    assert (choice["message"]["content"] if path == CHAT else choice["text"]) == "".join(texts)
    assert choice["token_ids"] == [token for each in ids for token in each]


@pytest.mark.parametrize("path", QUESTIONS)
def test_ids_are_told_only_where_they_are_asked_for(sim, path) -> None:
    told = stream(sim, path, **QUESTIONS[path], return_token_ids=False, max_tokens=3)
    assert not any(chunk.get("prompt_token_ids") or chunk["choices"][0].get("token_ids") for chunk in told)


def test_no_token_of_an_answer_is_as_another() -> None:
    assert len(set(WORDS)) == len(WORDS) == 490


def test_only_the_answer_to_what_comes_before_it_is_gone_on_with() -> None:
    answer = answer_bytes(b"a prompt", 30)
    assert answered_tokens(b"a prompt" + answer) == 30
    assert answered_tokens(b"another prompt" + answer) == 0
    assert answered_tokens(b"a prompt") == answered_tokens(answer[:4]) == 0
    assert answered_tokens(b"a prompt" + answer + b"and more") == 0


def test_what_tokens_add_is_the_text_of_all_of_them() -> None:
    answer = answer_bytes(b"", 2 * len(WORDS))
    for tokens in range(1, 2 * len(WORDS)):
        part = answer[: 4 * tokens]
        assert b"".join(text_of_token(part, number) for number in range(tokens)) == text_of(part)
        text_of(part).decode()
