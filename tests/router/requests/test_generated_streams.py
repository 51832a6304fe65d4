"""Streams of `/inference/v1/generate` whose instance fails them in mid-answer: another one goes on by the ids."""

import asyncio
from typing import Any

import pytest

from dualmap.router.observe.metrics import Continuation
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import Conversation
from tests.router.requests.numbered_stream import (
    CARDS,
    ON,
    aborts,
    ask,
    dies,
    events,
    fails,
    hangs,
    last_error,
    spelled,
)

PATH = "/inference/v1/generate"
PROMPT = [11, 12, 13]
FIRST_ID = 1000  # of token 0 of an answer; that of token k is k more
TOKENS = 12
BODY: dict[str, Any] = {"model": "tiny", "token_ids": PROMPT, "stream": True, "sampling_params": {"max_tokens": TOKENS}}


class Generating:
    """An instance that spells its answers as vLLM does. fail_at: by place among all answers, after how many tokens it
    does what, once the client has these. seen: how many events that has. per_chunk: how many tokens come at once. more:
    in each choice. asked: bodies."""

    def __init__(self, per_chunk: int = 1, **more: Any) -> None:
        self.fail_at: dict[int, tuple[int, Any]] = {}
        self.seen = lambda: 1 << 30
        self.asked: list[dict[str, Any]] = []
        self._per_chunk = per_chunk
        self._more = more

    async def __call__(self, conversation: Conversation) -> None:
        body = conversation.request.json
        assert PATH in conversation.request.line
        place = len(self.asked)
        self.asked.append(body)
        fail_at, act = self.fail_at.get(place, (None, None))
        most = body.get("sampling_params", {}).get("max_tokens") or TOKENS
        options = body.get("stream_options") or {}
        head = {"request_id": f"generate-tokens-{place}"}
        first = len(body["token_ids"]) - len(PROMPT)
        made = 0
        await conversation.begin_stream()
        while made < most:
            if fail_at is not None and made >= fail_at:
                while self.seen() < made // self._per_chunk:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await act(conversation)
                return
            ids = [FIRST_ID + first + made + n for n in range(min(self._per_chunk, most - made))]
            made += len(ids)
            last = made == most
            usage = self._usage(body, made) if options.get("continuous_usage_stats") else None
            choice = {"index": 0, "logprobs": None, "finish_reason": "length" if last else None, "stop_reason": None}
            choice |= {"token_ids": ids, "routed_experts": None, "sampling_mask": None}
            choice |= {"weight_versions": [{"version": "default", "start": 0, "end": made}] if last else None}
            chunk = head | {"usage": usage, "output_mode": "tokens", "choices": [choice | self._more]}
            await conversation.send_event(spelled(chunk))
        if options.get("include_usage"):
            chunk = head | {"usage": self._usage(body, made), "output_mode": "tokens", "choices": []}
            await conversation.send_event(spelled(chunk))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    def _usage(self, body: dict[str, Any], made: int) -> dict[str, int]:
        prompt = len(body["token_ids"])
        return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}


def ids_in(answer: Any) -> list[int]:
    return [token for event in events(answer) for choice in event.get("choices", ()) for token in choice["token_ids"]]


def expected_ids(tokens: int = TOKENS) -> list[int]:
    return list(range(FIRST_ID, FIRST_ID + tokens))


def with_sampling(**sampling: Any) -> dict[str, Any]:
    return BODY | {"sampling_params": BODY["sampling_params"] | sampling}


@pytest.mark.parametrize("act", [dies, aborts, fails, hangs])
@pytest.mark.parametrize(("at", "per_chunk"), [(1, 1), (6, 1), (11, 1), (6, 3)])
async def test_an_answer_goes_on_elsewhere_as_if_nothing_had_happened(fleet, at, per_chunk, act):
    generating = Generating(per_chunk)
    generating.fail_at[0] = (at, act)
    async with fleet(generating, generating, about=ON, cards=CARDS, stall_timeout_s=0.05) as f:
        answer = await ask(await f.client(), PATH, with_sampling(min_tokens=9, temperature=0.7, logprobs=1), generating)
        assert ids_in(answer) == expected_ids()
        told = events(answer)
        assert {event["request_id"] for event in told} == {"generate-tokens-0"}
        assert [event["choices"][0]["finish_reason"] for event in told if event["choices"]][-1] == "length"
        assert told[-1]["choices"], "no usage is told that nobody asked for"
        spans = [span for event in told for span in event["choices"][0]["weight_versions"] or ()]
        assert spans == [{"version": "default", "start": at, "end": TOKENS}]
        rest = generating.asked[1]
        assert rest["token_ids"] == [*PROMPT, *expected_ids(at)]
        left = {"max_tokens": TOKENS - at, "min_tokens": max(0, 9 - at), "temperature": 0.7, "logprobs": 1}
        assert rest["sampling_params"] == left
        cause = {dies: "broken", aborts: "aborted", fails: "aborted", hangs: "stalled"}[act]
        assert f.gateway.metrics.continuations == {(FailureCause(cause), Continuation.WENT_ON): 1}
        assert f.gateway.metrics.outcomes["ok"] == 1
        f.check_books_are_empty()


@pytest.mark.parametrize("usages", [False, True])
async def test_usage_is_that_of_the_whole_answer(fleet, usages):
    body = BODY | {"stream_options": {"include_usage": True, "continuous_usage_stats": usages}}
    generating = Generating()
    generating.fail_at = {0: (5, dies), 1: (3, dies)}
    async with fleet(*[generating] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), PATH, body, generating)
        assert ids_in(answer) == expected_ids()
        counts = [event["usage"]["completion_tokens"] for event in events(answer) if event["usage"]]
        assert counts == ([*range(1, TOKENS + 1), TOKENS] if usages else [TOKENS])
        assert events(answer)[-1]["usage"] == {"prompt_tokens": 3, "total_tokens": 15, "completion_tokens": 12}
        assert (f.gateway.metrics.output_tokens, f.gateway.metrics.prompt_tokens) == (12, 3)
        f.check_books_are_empty()


async def test_an_answer_of_no_said_length_goes_on_to_the_end_of_the_context(fleet):
    generating = Generating()
    generating.fail_at[0] = (5, dies)
    async with fleet(generating, generating, about=ON, cards=CARDS) as f:
        body = BODY | {"sampling_params": {"temperature": 0}}
        answer = await ask(await f.client(), PATH, body, generating)
        assert generating.asked[1]["sampling_params"]["max_tokens"] == CARDS[0]["max_model_len"] - len(PROMPT) - 5
        assert ids_in(answer)[:TOKENS] == expected_ids()


async def test_a_long_prompt_is_kept_until_its_answer_is_over(fleet):
    prompt = [*range(100_000, 112_000)]
    generating = Generating()
    generating.fail_at[0] = (5, dies)
    async with fleet(generating, generating, about=ON) as f:
        answer = await ask(await f.client(), PATH, BODY | {"token_ids": prompt}, generating)
        assert events(answer)[-1]["choices"][0]["finish_reason"] == "length"
        assert generating.asked[1]["token_ids"][: len(prompt)] == prompt
        assert len(generating.asked[1]["token_ids"]) == len(prompt) + 5


@pytest.mark.parametrize("left", [1, 2])
async def test_an_answer_that_lacks_nothing_but_its_end_gets_it(fleet, left):
    """Its usage and [DONE], or [DONE] alone."""

    async def cut(conversation: Conversation) -> None:
        await Generating()(Cut(conversation, TOKENS + 2 - left))

    body = BODY | {"stream_options": {"include_usage": True}}
    async with fleet(cut, cut, about=ON, cards=CARDS) as f:
        answer = await (await f.client()).post(PATH, body)
        assert ids_in(answer) == expected_ids()
        usages = [event["usage"] for event in events(answer) if event["usage"]]
        assert usages == [{"prompt_tokens": 3, "total_tokens": 15, "completion_tokens": 12}]
        assert sum(len(instance.received) for instance in f.instances) == 1
        f.check_books_are_empty()


class Cut:
    """A conversation that ends after so many events."""

    def __init__(self, conversation: Conversation, events: int) -> None:
        self._conversation = conversation
        self._left = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conversation, name)

    async def send_event(self, data: str) -> None:
        if self._left:
            self._left -= 1
            await self._conversation.send_event(data)
        if not self._left:
            self._conversation.reset()
            self._left = -1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (with_sampling(stop=["x"]), "it has stop strings"),
        (with_sampling(seed=3), "it is drawn with a seed"),
        (with_sampling(presence_penalty=0.5), "penalties count the tokens of its answer alone"),
        (with_sampling(structured_outputs={"regex": "a*"}), "its output is structured"),
        (with_sampling(extra_args={"a": 1}), "it has `extra_args`"),
        (BODY | {"output_mode": "text"}, "it has texts beside its ids"),
        (BODY | {"features": {"mm_hashes": {}}}, "token ids do not say all of it"),
        (with_sampling(n=2), "token ids do not say all of it"),
        ({name: value for name, value in BODY.items() if name != "sampling_params"}, "token ids do not say all of it"),
    ],
)
async def test_what_cannot_go_on_exactly_ends_at_once_and_says_why(fleet, body, why):
    generating = Generating()
    generating.fail_at[0] = (5, dies)
    async with fleet(generating, generating, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), PATH, body, generating)
        assert why in last_error(answer)["message"]
        assert len(generating.asked) == 1
        f.check_books_are_empty()


async def test_what_tells_more_of_its_prompt_does_not_go_on_without_saying_so(fleet):
    generating = Generating(routed_experts="AAAA")
    generating.fail_at[0] = (5, dies)
    async with fleet(generating, generating, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), PATH, BODY, generating)
        assert "error" in events(answer)[-1]
        assert f.gateway.metrics.outcomes["failed_stream"] == 1
        f.check_books_are_empty()
