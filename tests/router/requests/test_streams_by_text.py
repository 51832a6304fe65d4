"""Chats whose stream goes on by its text, where that is configured and nothing exact can be done."""

import json
from typing import Any

import pytest

from dualmap import is_compiled
from dualmap.scheduler.instance.pace import PrefillSpeed
from tests.router.conftest import STREAM, Answer, Conversation, Fleet

PATH = "/v1/chat/completions"
ON = {"max_continuations": 2, "continue_by_text": True}
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
TOOL = {"type": "function", "function": {"name": "f"}}
ASKED = {**STREAM, "tools": [TOOL], "max_tokens": 100, "stream_options": {"include_usage": True}}
PROMPT_TOKENS = 20


class Writer:
    """An instance that says WORDS, from where the last message ends. failing: how many words each of the first answers
    has. first: deltas before them."""

    def __init__(self, *failing: int, first: Any = ()) -> None:
        self.asked: list[Any] = []
        self._failing = failing
        self._first = first

    async def __call__(self, conversation: Conversation) -> None:
        number, body = len(self.asked), conversation.request.json
        self.asked.append(body)
        last = body["messages"][-1]
        said = len(last["content"].split()) if last["role"] == "assistant" else 0
        words = WORDS[said : said + self._failing[number]] if number < len(self._failing) else WORDS[said:]
        await conversation.begin_stream()
        deltas = [{"role": "assistant", "content": ""}, *self._first, *({"content": word + " "} for word in words)]
        for delta in deltas:
            await self._send(conversation, number, {"index": 0, "delta": delta, "finish_reason": None})
        if number < len(self._failing):
            conversation.reset()
            return
        await self._send(conversation, number, {"index": 0, "delta": {}, "finish_reason": "stop"})
        tokens = PROMPT_TOKENS + said, len(words)
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        await self._send(conversation, number, usage=usage)
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async def _send(self, conversation: Conversation, number: int, *choices: Any, **more: Any) -> None:
        chunk = {"id": f"answer-{number}", "created": number, "choices": choices, **more}
        await conversation.send_event(json.dumps(chunk))


def told(answer: Answer) -> tuple[str, set[str], list[Any]]:
    text, ids, others = "", set(), []
    for event in answer.body.decode().split("\n\n")[:-1]:
        data = event.removeprefix("data: ")
        chunk = {} if data == "[DONE]" else json.loads(data)
        ids |= {chunk["id"]} if "id" in chunk else set()
        others += [chunk[name] for name in ("usage", "error") if chunk.get(name)]
        for choice in chunk.get("choices", ()):
            text += choice["delta"].get("content") or ""
            others += [choice["delta"]["role"]] if "role" in choice["delta"] else []
            others += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, ids, others


async def ask(f: Fleet, **changes: Any) -> Answer:
    return await (await f.client()).post(PATH, ASKED | changes)


@pytest.mark.parametrize("failing", [(1,), (5,), (3, 2)])
async def test_a_chat_goes_on_behind_its_text_as_one_answer(fleet, failing):
    writer = Writer(*failing)
    async with fleet(*[writer] * 3, about=ON) as f:
        text, ids, others = told(await ask(f))
        assert text.split() == WORDS
        assert ids == {"answer-0"}
        usage = {"prompt_tokens": 20, "total_tokens": 28, "completion_tokens": 8}
        assert others == ["assistant", "stop", usage]
        last = writer.asked[-1]
        assert last["messages"][:-1] == STREAM["messages"]
        assert (last["continue_final_message"], last["add_generation_prompt"]) == (True, False)
        assert last["max_tokens"] == 100 - sum(failing)
        assert f.gateway.metrics.output_tokens == 8
        f.check_books_are_empty()


async def test_no_chat_goes_on_by_its_text_unless_so_configured(fleet):
    writer = Writer(3)
    async with fleet(writer, writer, about={"max_continuations": 2}) as f:
        assert "No other one can go on" in told(await ask(f))[2][-1]["message"]
        assert len(writer.asked) == 1


CALL = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}
NEVER: dict[str, tuple[dict[str, Any], Any]] = {
    "structured output": ({"response_format": {"type": "json_object"}}, ()),
    "a grammar": ({"structured_outputs": {"regex": "a+"}}, ()),
    "log probabilities": ({"logprobs": True}, ()),
    "several choices": ({"n": 2}, ()),
    "stop strings": ({"stop": ["x"]}, ()),
    "a tool that must be called": ({"tool_choice": "required"}, ()),
    "a call of a tool": ({}, (CALL,)),
    "reasoning": ({}, ({"reasoning": "hm"},)),
    "as many tokens as it may have": ({"max_tokens": 3}, ()),
    "as many as a number says that has a point": ({"max_tokens": "3.0"}, ()),
    "no number of tokens": ({"max_tokens": "many"}, ()),
}


@pytest.mark.parametrize(("fields", "first"), NEVER.values(), ids=NEVER)
async def test_what_a_text_does_not_say_ends_with_an_error(fleet, fields, first):
    writer = Writer(3, first=first)
    async with fleet(writer, writer, about=ON) as f:
        assert "No other one can go on" in told(await ask(f, **fields))[2][-1]["message"]
        assert len(writer.asked) == 1
        f.check_books_are_empty()


@pytest.mark.skipif(is_compiled(), reason="methods of machine code cannot be replaced")
async def test_the_rest_tells_how_fast_its_instance_begins(fleet, monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(PrefillSpeed, "observe", lambda self, tokens, now, loads: told.append(tokens))
    writer = Writer(3)
    async with fleet(writer, writer, about=ON) as f:
        await ask(f)
        assert len(told) == 2
