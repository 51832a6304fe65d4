"""Streams that no instance can go on with, but make again: what the client has is compared and left out."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from dualmap import is_compiled
from dualmap.router.observe.metrics import Continuation
from dualmap.router.requests import answer_replay
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.instance.pace import PrefillSpeed
from dualmap.scheduler.instance.token_pace import TokenPace
from tests.router.conftest import STREAM, Answer, Conversation, Fleet

PATH = "/v1/chat/completions"
ON = {"max_continuations": 2}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
GREEDY = {**STREAM, "temperature": 0, "tools": [TOOL], "stream_options": {"include_usage": True}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}
Deltas = list[tuple[int, dict[str, Any]]]

CALLS: Deltas = [
    (0, {"role": "assistant", "content": ""}),
    (0, {"reasoning": "Let me "}),
    (0, {"reasoning": "see."}),
    (0, {"content": "I ask."}),
    (0, {"tool_calls": [{"index": 0, "id": "ID", "type": "function", "function": {"name": "weather"}}]}),
    (0, {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
    (0, {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
    (0, {"tool_calls": [{"index": 1, "id": "ID", "type": "function", "function": {"name": "w", "arguments": "{}"}}]}),
]
TWO: Deltas = [
    (0, {"role": "assistant", "content": ""}),
    (1, {"role": "assistant", "content": ""}),
    (0, {"content": "one "}),
    (1, {"content": "eins "}),
    (1, {"content": "zwei"}),
    (0, {"content": "two"}),
]
ANSWERS = {"calls of tools": CALLS, "two choices": TWO}


class Instances:
    """Each answer has an id of its own. failing: how many chunks each of the first ones sends, None for all."""

    def __init__(self, *failing: int | None, shapes: Sequence[Deltas] = (CALLS,)) -> None:
        """shapes: of the first answers, the last one of all others."""
        self.asked: list[Any] = []
        self.hangs: int | None = None  # that answer, where it would fail
        self._failing = failing
        self._shapes = shapes

    async def __call__(self, conversation: Conversation) -> None:
        number = len(self.asked)
        self.asked.append(conversation.request.json)
        end = self._failing[number] if number < len(self._failing) else None
        await conversation.begin_stream()
        for chunk in self.chunks(number)[:end]:
            await conversation.send_event(chunk if isinstance(chunk, str) else json.dumps(chunk, separators=(",", ":")))
        if end is None:
            await conversation.end_stream()
        elif self.hangs == number:
            await conversation.closed_by_gateway()
        else:
            conversation.reset()

    def chunks(self, number: int) -> list[Any]:
        about = {"id": f"answer-{number}", "object": "chat.completion.chunk", "created": number, "model": "tiny"}
        shape = self._shapes[min(number, len(self._shapes) - 1)]
        deltas = json.loads(json.dumps(shape).replace('"ID"', f'"call-{number}"'))
        made: list[Any] = [
            {**about, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
            for index, delta in deltas
        ]
        for index in {index for index, _ in deltas}:
            choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": "stop"}
            made.append({**about, "choices": [choice]})
        return [*made, {**about, "choices": [], "usage": USAGE}, "[DONE]"]


def told(answer: Answer) -> tuple[dict[Any, str], set[Any], list[Any]]:
    """Texts by their places; ids of the answer and of its calls; what else there is, in its order."""
    texts: dict[Any, str] = {}
    ids: set[Any] = set()
    others: list[Any] = []
    for event in answer.body.decode().split("\n\n")[:-1]:
        data = event.removeprefix("data: ")
        if data == "[DONE]":
            others.append(data)
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            others.append(chunk["error"]["message"])
            continue
        ids |= {chunk["id"], chunk["created"]}
        others += [chunk["usage"]] if chunk.get("usage") else []
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            for name in ("content", "reasoning"):
                texts[index, name] = texts.get((index, name), "") + delta.get(name, "")
            for call in delta.get("tool_calls", ()):
                ids |= {call["id"]} if "id" in call else set()
                for name, text in call["function"].items():
                    texts[index, call["index"], name] = texts.get((index, call["index"], name), "") + text
            others += [delta["role"]] if "role" in delta else []
            others += [(index, choice["finish_reason"])] if choice["finish_reason"] else []
    return texts, ids, others


async def ask(f: Fleet, body: Any = GREEDY) -> Answer:
    return await (await f.client()).post(PATH, body)


@pytest.mark.parametrize(
    ("name", "cut"), [(name, cut) for name, shape in ANSWERS.items() for cut in range(3, len(shape) + 3)]
)
async def test_a_greedy_answer_that_cannot_go_on_is_made_again_and_seen_once(fleet, name, cut):
    body = GREEDY | ({"n": 2} if name == "two choices" else {})
    async with fleet(Instances(shapes=[ANSWERS[name]]), about=ON) as f:
        undisturbed = await ask(f, body)
    instances = Instances(cut, shapes=[ANSWERS[name]])
    async with fleet(instances, instances, about=ON) as f:
        answer = await ask(f, body)
        texts, ids, others = told(answer)
        assert texts == told(undisturbed)[0]
        assert others == told(undisturbed)[2]
        assert {"answer-0", 0} <= ids
        assert not {"answer-1", 1} & ids
        f.check_books_are_empty()
        if cut == len(CALLS) + 2 and name == "calls of tools":  # it lacks nothing but [DONE]
            assert len(instances.asked) == 1
            return
        assert len(instances.asked) == 2
        assert instances.asked[0].items() >= instances.asked[1].items()  # but for ids, which it need not tell
        assert f.gateway.metrics.continuations[FailureCause.BROKEN, Continuation.WENT_ON] == 1


async def test_tokens_may_come_together_in_another_way(fleet):
    together: Deltas = [
        CALLS[0],
        (0, {"reasoning": "Let me see."}),
        (0, {"content": "I "}),
        (0, {"content": "ask."}),
        *CALLS[4:],
    ]
    instances = Instances(2, None, shapes=[CALLS, together])
    async with fleet(instances, instances, about=ON) as f:
        texts, _, others = told(await ask(f))
    assert texts[0, "reasoning"] == "Let me see."
    assert texts[0, "content"] == "I ask."
    assert others == ["assistant", (0, "stop"), USAGE, "[DONE]"]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param([*CALLS[:1], (0, {"reasoning": "Let us see."}), *CALLS[3:]], id="other words"),
        pytest.param([*CALLS[:2], *CALLS[3:]], id="words are missing"),
        pytest.param(CALLS[:2], id="a shorter one"),
    ],
)
async def test_another_answer_is_not_mixed_with_the_first(fleet, second):
    instances = Instances(4, shapes=[CALLS, second])
    async with fleet(instances, instances, instances, about=ON) as f:
        texts, _, others = told(await ask(f))
        assert texts[0, "reasoning"] == "Let me see."
        assert others[-2] == (
            "The instance failed before its answer was complete. No other one can go on with the answer:"
            " another one gives another answer."
        )
        assert len(instances.asked) == 2
        f.check_books_are_empty()


async def test_an_answer_is_made_again_twice_at_most(fleet):
    instances = Instances(3, 5, 7)
    async with fleet(*[instances] * 4, about=ON) as f:
        texts, _, others = told(await ask(f))
        assert len(instances.asked) == 3
        assert texts[0, 0, "arguments"] == '{"city":"Oslo"}'
        assert "it has gone on 2 times already" in others[-2]
        f.check_books_are_empty()


async def test_a_second_answer_that_fails_before_anything_new_is_no_continuation(fleet):
    instances = Instances(5, 2, None)
    async with fleet(*[instances] * 3, about=ON) as f:
        assert told(await ask(f))[2] == ["assistant", (0, "stop"), USAGE, "[DONE]"]
        assert f.gateway.metrics.failures[FailureCause.BROKEN] == 2
        f.check_books_are_empty()


async def test_a_second_answer_that_hangs_while_it_is_compared_is_given_up_as_any_other(fleet):
    instances = Instances(5, 2, None)
    instances.hangs = 1
    async with fleet(*[instances] * 3, about=ON, stall_timeout_s=0.05) as f:
        assert told(await ask(f))[2] == ["assistant", (0, "stop"), USAGE, "[DONE]"]
        assert f.gateway.metrics.failures[FailureCause.STALLED] == 1
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("changes", "again"),
    [({"temperature": 0.7}, False), ({"temperature": 0.7, "seed": 3}, True), ({"temperature": None}, False)],
)
async def test_only_answers_that_are_the_same_again_are_made_again(fleet, changes, again):
    instances = Instances(4)
    async with fleet(instances, instances, about=ON) as f:
        await ask(f, GREEDY | changes)
        assert len(instances.asked) == 1 + again


@pytest.mark.skipif(is_compiled(), reason="a constant of machine code cannot be replaced")
async def test_a_long_answer_is_not_made_again(fleet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer_replay, "MOST_RECORDED_BYTES", 400)
    instances = Instances(6)
    async with fleet(instances, instances, about=ON) as f:
        assert told(await ask(f))[2][-1] == "[DONE]"
        assert len(instances.asked) == 1


async def test_usage_that_the_client_did_not_ask_for_stays_hidden(fleet):
    instances = Instances(4)
    body = {name: value for name, value in GREEDY.items() if name != "stream_options"}
    async with fleet(instances, instances, about=ON) as f:
        assert told(await ask(f, body))[2] == ["assistant", (0, "stop"), "[DONE]"]
        assert f.gateway.metrics.prompt_tokens == USAGE["prompt_tokens"]


@pytest.mark.skipif(is_compiled(), reason="methods of machine code cannot be replaced")
async def test_what_is_made_again_tells_nothing_of_the_pace(fleet, monkeypatch: pytest.MonkeyPatch):
    """Its first piece that is new comes after all that the client had."""
    told: list[type] = []
    for pace in (PrefillSpeed, TokenPace):
        monkeypatch.setattr(pace, "observe", lambda self, *_: told.append(type(self)))
    instances = Instances(5)
    async with fleet(instances, instances, about=ON) as f:
        await ask(f)
        assert told == [PrefillSpeed], "by the first answer alone"
