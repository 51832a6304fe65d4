"""Drawn chats with reasoning and tools whose instance fails them: another one goes on by ids, which it turns into the
chat's chunks."""

import asyncio
import json
from typing import Any

import pytest

from dualmap.router.observe.metrics import Continuation
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import STREAM, Answer, Conversation, Fleet
from tests.router.requests.numbered_stream import CARDS, ON, spelled

PATH = "/v1/chat/completions"
DERENDER = f"{PATH}/derender"
TOOL = {"type": "function", "function": {"name": "weather"}}
DRAWN = {**STREAM, "temperature": 0.7, "tools": [TOOL], "stream_options": {"include_usage": True}, "max_tokens": 50}
PROMPT = [11, 12]
FIRST_ID = 1000
# What each token adds: an empty one is a mark that parsers look for, or part of a character.
DELTAS: list[dict[str, Any]] = [
    {"reasoning": "Let me "},
    {"reasoning": "see"},
    {"reasoning": "."},
    {},
    {"content": "I "},
    {"content": "ask."},
    {},
    {"tool_calls": [{"index": 0, "id": "call-0", "type": "function", "function": {"name": "weather"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
    {},
]
USAGE = {"prompt_tokens": 2, "total_tokens": 2 + len(DELTAS), "completion_tokens": len(DELTAS)}


class Parsing:
    """An instance. cuts: how many tokens each of the first answers gives before it breaks off. status: of its answers
    to those who ask for chunks. asked: bodies of requests for answers; derenders: of those for chunks."""

    def __init__(self, *cuts: int, status: int = 200, waits: int = 0) -> None:
        """waits: for how many calls, one for each of the first tokens of what is left: the client has all but the last
        of these."""
        self.asked: list[Any] = []
        self.derenders: list[Any] = []
        self._cuts = cuts
        self._status = status
        self._waits = waits

    async def __call__(self, conversation: Conversation) -> None:
        body = conversation.request.json
        if DERENDER in conversation.request.line:
            self.derenders.append(conversation.request.json)
            if self._status != 200:
                await conversation.send_json({"detail": "Not Found"}, f"{self._status} Not so")
            else:
                await conversation.send_json(derendered(body))
            return
        number = len(self.asked)
        self.asked.append(body)
        is_chat = "chat" in conversation.request.line
        await conversation.begin_stream()
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        about = {"id": f"answer-{number}", "object": kind, "created": number, "model": "tiny"}
        if is_chat:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            await conversation.send_event(spelled({**about, "choices": [first], "prompt_token_ids": PROMPT}))
        start = 0 if is_chat else len(body["prompt"]) - len(PROMPT)
        for token in range(start, len(DELTAS)):
            while not is_chat and len(self.derenders) < min(token - start, self._waits):  # noqa: ASYNC110
                await asyncio.sleep(0)
            if number < len(self._cuts) and token == start + self._cuts[number]:
                conversation.reset()
                return
            ended = "stop" if token == len(DELTAS) - 1 else None
            made = {"delta": DELTAS[token]} if is_chat else {"text": f"raw {token}"}
            reason = "tool_calls" if is_chat and ended else ended
            choice = {"index": 0, **made, "logprobs": None, "finish_reason": reason, "token_ids": [FIRST_ID + token]}
            await conversation.send_event(spelled({**about, "choices": [choice]}))
        await conversation.send_event(spelled({**about, "choices": [], "usage": USAGE}))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()


def derendered(body: Any) -> Any:
    """As vLLM does: all of an answer's chunk is one delta, and fields that have nothing are null."""
    assert body["chat_request"]["messages"] == STREAM["messages"]
    assert body["prompt_token_ids"] == PROMPT
    state, choice = body["stream_state"], body["generate_chunk"]["choices"][0]
    known, ids = state["output_token_ids"], choice["token_ids"]
    assert [*known, *ids] == list(range(FIRST_ID, FIRST_ID + len(known) + len(ids)))
    assert sum(state["output_chunk_lens"]) == len(known)
    assert 0 not in state["output_chunk_lens"]
    delta: dict[str, Any] = {"role": None, "content": None, "reasoning": None, "tool_calls": []}
    for each in (DELTAS[token - FIRST_ID] for token in ids):
        for name in ("content", "reasoning"):
            if name in each:
                delta[name] = (delta[name] or "") + each[name]
        delta["tool_calls"] += json.loads(json.dumps(each.get("tool_calls", [])))
    state["tools_streamed"] |= bool(delta["tool_calls"])
    state["output_token_ids"] += ids
    state["output_chunk_lens"] += [len(ids)] if ids else []
    reason = choice["finish_reason"]
    shown = {
        "index": 0,
        "delta": delta,
        "finish_reason": "tool_calls" if reason and state["tools_streamed"] else reason,
    }
    return {"chunk": {"id": "rest", "choices": [shown | {"stop_reason": None}]}, "stream_state": state}


def told(answer: Answer) -> dict[str, Any]:
    """What a client makes of it."""
    made: dict[str, Any] = {"content": "", "reasoning": "", "name": "", "arguments": "", "others": []}
    for data in (event.removeprefix("data: ") for event in answer.body.decode().split("\n\n")[:-1]):
        chunk = {} if data == "[DONE]" else json.loads(data)
        made["others"] += [data] if not chunk else [chunk["error"]["message"]] if "error" in chunk else []
        made["others"] += [chunk["usage"]] if chunk.get("usage") else []
        made.setdefault("ids", set()).update({chunk["id"]} if "id" in chunk else ())
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            made["others"] += [name for name in ("role",) if name in delta]
            for name in ("content", "reasoning"):
                made[name] += delta.get(name, "")
            for call in delta.get("tool_calls", ()):
                for name, text in call["function"].items():
                    made[name] += text
            made["others"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return made


WHOLE = {
    "reasoning": "Let me see.",
    "content": "I ask.",
    "name": "weather",
    "arguments": '{"city":"Oslo"}',
    "ids": {"answer-0"},
    "others": ["role", "tool_calls", USAGE, "[DONE]"],
}


async def ask(f: Fleet, body: Any = DRAWN) -> dict[str, Any]:
    return told(await (await f.client()).post(PATH, body))


@pytest.mark.parametrize("cut", range(1, len(DELTAS)))
async def test_a_drawn_answer_goes_on_in_its_reasoning_and_in_its_calls(fleet, cut):
    instance = Parsing(cut)
    async with fleet(instance, instance, about=ON, cards=CARDS) as f:
        assert await ask(f) == WHOLE
        assert f.gateway.metrics.continuations[FailureCause.BROKEN, Continuation.WENT_ON] == 1
        f.check_books_are_empty()
    rest = instance.asked[1]
    assert rest["prompt"] == [*PROMPT, *range(FIRST_ID, FIRST_ID + cut)]
    assert rest["max_tokens"] == 50 - cut
    assert "tools" not in rest
    assert instance.derenders[0]["stream_state"]["output_chunk_lens"] == [1] * cut, "as the first instance gave them"
    assert len(instance.derenders) < len(DELTAS) - cut + 1


async def test_without_tools_only_reasoning_is_parsed(fleet):
    body = {name: value for name, value in DRAWN.items() if name != "tools"}
    parsed, plain = Parsing(2), Parsing(6)
    async with fleet(parsed, parsed, about=ON, cards=CARDS) as f:
        assert await ask(f, body) == WHOLE
    async with fleet(plain, plain, about=ON, cards=CARDS) as f:
        assert (await ask(f, body))["content"] == "I ask." + "".join(f"raw {token}" for token in range(6, 11))
    assert parsed.derenders
    assert not plain.derenders


async def test_what_goes_on_in_its_reasoning_is_parsed_when_it_is_cut_again(fleet):
    instance = Parsing(1, 4, waits=2)
    body = {name: value for name, value in DRAWN.items() if name != "tools"}
    async with fleet(*[instance] * 3, about=ON, cards=CARDS) as f:
        assert await ask(f, body) == WHOLE
        f.check_books_are_empty()
    assert len(instance.asked) == 3


async def test_an_instance_that_knows_no_derendering_is_not_asked_again_and_the_client_is_told_why(fleet):
    instance = Parsing(*[2, 99, 99] * 5, status=404)
    async with fleet(instance, instance, about=ON, cards=CARDS) as f:
        said = await ask(f)
        assert said["reasoning"] == "Let me see"
        assert "it is in its reasoning, and none could take what is left of it" in said["others"][1]
        asked = len(instance.derenders)
        assert 1 <= asked <= 2, "once each"
        for _ in range(3):
            await ask(f)
        assert len(instance.derenders) <= 2
        f.check_books_are_empty()


@pytest.mark.parametrize("status", [400, 500])
async def test_ids_that_become_no_chunks_end_the_answer_with_an_error(fleet, status):
    instance = Parsing(2, status=status)
    async with fleet(instance, instance, about=ON, cards=CARDS) as f:
        said = await ask(f)
        assert said["reasoning"] == "Let me see"
        assert "it is in its reasoning" in said["others"][1]
        f.check_books_are_empty()
