"""Streams whose instance fails them in mid-answer: another one goes on, and the client sees one answer."""

import json
from typing import Any

import pytest

from tests.router.conftest import STREAM, Answer, Client, post
from tests.router.requests.numbered_stream import (
    FIRST_ID,
    PROMPT,
    Numbered,
    aborts,
    dies,
    fails,
    hangs,
    whole_text,
)

ON = {"max_continuations": 2}
CARDS = ({"id": "tiny", "max_model_len": 100},)
TEXT = {"model": "tiny", "prompt": "hi", "stream": True, "max_tokens": 50}
WAYS = {"chat": ("/v1/chat/completions", STREAM), "completions": ("/v1/completions", TEXT)}


async def ask(client: Client, path: str, body: Any, numbered: Numbered) -> Answer:
    """The whole answer; the instances know how many tokens of it the client has."""
    got = b""
    numbered.seen = lambda: got.count(b" t")
    await client.send(post(path, body))
    answer = await client.answer_head()
    while chunk := await client.chunk():
        got += chunk
    answer.body = got
    return answer


def events(answer: Answer) -> list[Any]:
    data = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    assert data.pop() == "[DONE]"
    return [json.loads(event) for event in data]


def text(answer: Answer) -> str:
    parts = [choice for event in events(answer) for choice in event["choices"]]
    return "".join(part["delta"].get("content", "") if "delta" in part else part["text"] for part in parts)


@pytest.mark.parametrize("act", [dies, aborts, fails, hangs])
@pytest.mark.parametrize("at", [1, 5, 11])
@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_goes_on_elsewhere_as_if_nothing_had_happened(fleet, way, at, act):
    path, body = WAYS[way]
    undisturbed, numbered = Numbered(), Numbered()
    numbered.fail_at[0] = (at, act)
    async with fleet(undisturbed, about=ON, cards=CARDS) as f:
        expected = await (await f.client()).post(path, body)
    async with fleet(numbered, numbered, about=ON, cards=CARDS, stall_timeout_s=0.05) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert answer.body == expected.body
        assert text(answer) == whole_text(12)
        assert numbered.asked[1]["prompt"] == [*PROMPT, *range(FIRST_ID, FIRST_ID + at)]
        f.check_books_are_empty()
