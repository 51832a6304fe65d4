"""Requests whose prompt one instance computes and another answers, as vLLM's servers with NixlConnector do it."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dualmap.router.cli.explain import explained
from dualmap.router.observe.metrics import Outcome, Told
from dualmap.router.requests.admission import ONLY_PREFILL
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.role import Role
from tests.router.conftest import Conversation, Instance, post
from tests.router.requests.numbered_stream import ON, WAYS, Numbered, ask, dies, undisturbed

LONG = "a long question " * 400
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": LONG}], "max_tokens": 7}
CARDS = ({"id": "tiny", "max_model_len": 100_000},)
PARAMS = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-1",
    "remote_block_ids": [[1, 2, 3]],
    "remote_host": "10.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
}
ROLES = {"p": Role.PREFILL, "d": Role.DECODE, "b": Role.BOTH}


def usage(cached: int) -> dict[str, Any]:
    return {"prompt_tokens": 1600, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": cached}}


async def prefill(conversation: Conversation) -> None:
    """As vLLM answers a prefill leg: one token, and where the computed prompt is."""
    answer = {"choices": [{"message": {"content": "x"}}], "usage": usage(64), "kv_transfer_params": PARAMS}
    await conversation.send_json(answer)


async def tells_nothing(conversation: Conversation) -> None:
    await conversation.send_json({"choices": [], "usage": usage(64), "kv_transfer_params": None})


async def decode(conversation: Conversation) -> None:
    """All that was fetched counts as cached."""
    if conversation.request.json.get("stream"):
        await conversation.begin_stream()
        await conversation.send_event('{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}')
        await conversation.send_event('{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}')
        await conversation.send_event(json.dumps({"choices": [], "usage": usage(1599)}))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()
        return
    choice = {"message": {"content": 'it says "cached_tokens": 5'}, "finish_reason": "stop"}
    await conversation.send_json({"choices": [choice], "usage": usage(1599)})


async def fails(conversation: Conversation) -> None:
    await conversation.send_json({"error": {"message": "broken"}}, "500 Internal Server Error")


async def hangs(conversation: Conversation) -> None:
    await conversation.closed_by_gateway()


@pytest.fixture
def pd(fleet):
    """roles: a letter for each instance: p, d or b."""

    @asynccontextmanager
    async def make(roles: str, *scripts, **more):
        async with fleet(*scripts, cards=CARDS, **more) as f:
            f.apply(*(f.member(i, role=ROLES[role], model_cards=CARDS) for i, role in enumerate(roles)))
            yield f

    return make


def received(instance: Instance) -> list[dict[str, Any]]:
    return [request.json for request in instance.received]


async def test_one_instance_computes_the_prompt_and_another_answers(pd):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, "x-request-id: mine\r\n")
        assert answer.status == 200
        assert answer.json["choices"][0]["message"]["content"] == 'it says "cached_tokens": 5'
        (first,), (second,) = map(received, f.instances)
        assert (first["max_tokens"], first["stream"]) == (1, False)
        assert first["kv_transfer_params"]["do_remote_decode"] is True
        assert first["messages"] == CHAT["messages"]
        assert second == {**CHAT, "kv_transfer_params": PARAMS}
        assert {i.received[0].headers["x-request-id"] for i in f.instances} == {"mine"}
        assert answer.headers["x-dualmap-instance"] == "i1"
        assert answer.headers["x-dualmap-prefill-instance"] == "i0"
        f.check_books_are_empty()
        metrics = f.gateway.metrics
        assert metrics.outcomes[Outcome.OK] == 1
        assert metrics.handoffs == {Told.WHERE: 1, Told.NOTHING: 0}


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_those_of_who_computed_the_prompt(pd, stream):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        body = CHAT | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
        answer = await client.post("/v1/chat/completions", body)
        said = answer.json if not stream else json.loads(answer.body.split(b"data: ")[-2])
        assert said["usage"] == usage(64)
        assert f.gateway.metrics.cached_prompt_tokens == 64


async def test_a_stream_keeps_its_options_for_the_one_that_answers(pd):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        body = {**CHAT, "stream": True, "max_completion_tokens": 9, "min_tokens": 3}
        answer = await client.post("/v1/chat/completions", body)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert b"usage" not in answer.body, "it was asked for by the gateway alone"
        (first,), (second,) = map(received, f.instances)
        assert (first["stream"], first["max_completion_tokens"]) == (False, 1)
        assert (first["stream_options"], first["min_tokens"]) == (None, 0)
        assert (second["stream"], second["max_completion_tokens"], second["min_tokens"]) == (True, 9, 3)
        assert f.gateway.metrics.cached_prompt_tokens == 64


async def test_an_instance_that_tells_nothing_is_counted_and_the_other_computes_it_all(pd, caplog):
    async with pd("pd", tells_nothing, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.json["usage"] == usage(1599), "its own count is right"
        assert received(f.instances[1]) == [CHAT]
        assert f.gateway.metrics.handoffs == {Told.WHERE: 0, Told.NOTHING: 1}
        assert "kv_transfer_params" in caplog.text
        scraped = f.gateway.metrics.scrape().decode()
        assert 'dualmap_prefill_handoffs_total{told="nothing"} 1.0' in scraped


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2},
        {"messages": [{"role": "user", "content": "short"}]},
        {"prompt_logprobs": 0},
        {"kv_transfer_params": {"do_remote_decode": True}},
        {"max_tokens": 0},
        {"max_completion_tokens": 0},
        {"stream_options": {"include_usage": True}},  # of no stream
        {"min_tokens": 8},  # of 7
        {"max_tokens": 99_000},  # of 100,000 for prompt and answer together
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_cannot_be_split_goes_whole_to_one_that_decodes(pd, change):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT | change)
        assert answer.status == 200
        assert "x-dualmap-prefill-instance" not in answer.headers
        assert [len(i.received) for i in f.instances] == [0, 1]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "splits"),
    [
        (LONG, 98_500, True),  # of 100,000; the prompt is taken for 1,600 tokens, and may have a tenth less
        (LONG, 98_600, False),
        ([7] * 2000, 98_000, True),
        ([7] * 2000, 98_001, False),
    ],
    ids=["a text", "a longer answer", "token ids", "one token too many"],
)
async def test_who_asks_for_all_that_is_left_of_the_context_is_split(pd, prompt, max_tokens, splits):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        body = {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens}
        assert (await client.post("/v1/completions", body)).status == 200
        assert [len(i.received) for i in f.instances] == [splits, 1]


async def test_other_apis_go_whole_to_one_that_decodes(pd):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        for path, body in (
            ("/v1/embeddings", {"model": "tiny", "input": LONG}),
            ("/v1/completions", {"model": "tiny", "prompt": [LONG, LONG]}),
        ):
            assert (await client.post(path, body)).status == 200
        assert [len(i.received) for i in f.instances] == [0, 2]


async def test_completions_are_split_as_chats_are(pd):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        assert (await client.post("/v1/completions", {"model": "tiny", "prompt": LONG})).status == 200
        assert (await client.post("/v1/completions", {"model": "tiny", "prompt": list(range(2000))})).status == 200
        assert [len(i.received) for i in f.instances] == [2, 2]


async def test_an_instance_of_both_kinds_that_has_computed_it_answers_without_a_transfer(pd):
    async with pd("bp", decode, prefill) as f:
        f.instances[0].script = lambda c: (prefill if c.request.json["max_tokens"] == 1 else decode)(c)
        client = await f.client()
        for number in range(8):  # some are computed by the one, some by the other
            text = f"{number} {LONG}"
            body = CHAT | {"messages": [{"role": "user", "content": text}]}
            answer = await client.post("/v1/chat/completions", body)
            computed_by = answer.headers["x-dualmap-prefill-instance"]
            sent = received(f.instances[0])[-1]
            assert ("kv_transfer_params" in sent) is (computed_by == "i1")


async def test_where_only_prefill_instances_are_ready_the_client_is_told(pd):
    async with pd("p", prefill) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.error["message"]) == (503, ONLY_PREFILL)


@pytest.mark.parametrize(("roles", "status"), [("pp", 503), ("pd", 200), ("b", 200), ("", 503)])
async def test_a_gateway_is_ready_where_somebody_answers(pd, roles, status):
    async with pd(roles, *[decode] * len(roles)) as f:
        client = await f.client()
        assert (await client.get("/ready")).status == status


# Failures.


async def test_a_failed_prefill_runs_elsewhere(pd):
    async with pd("ppd", prefill, prefill, decode) as f:
        f.instances[0].script = f.instances[1].script = first_fails(prefill)
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 200
        assert [len(i.received) for i in f.instances] == [1, 1, 1]
        f.check_books_are_empty()


def first_fails(then):
    asked = 0

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        await (fails if asked == 1 else then)(conversation)

    return script


async def test_where_no_prefill_works_the_decode_instance_does_all(pd):
    async with pd("pd", fails, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 200
        assert received(f.instances[1]) == [CHAT]


async def test_a_failed_decode_leg_begins_again(pd):
    async with pd("pdd", prefill, decode, decode) as f:
        f.instances[1].script = f.instances[2].script = first_fails(decode)
        client = await f.client()
        answer = await client.post("/v1/chat/completions", {**CHAT, "stream": True})
        assert answer.status == 200
        assert [len(i.received) for i in f.instances] == [2, 1, 1]
        f.check_books_are_empty()


async def test_what_the_client_did_wrong_it_is_told_by_the_prefill_instance(pd):
    async def refuses(conversation: Conversation) -> None:
        await conversation.send_json({"error": {"message": "bad grammar", "code": 400}}, "400 Bad Request")

    async with pd("pd", refuses, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.json["error"]["message"]) == (400, "bad grammar")
        assert not f.instances[1].received
        assert f.gateway.metrics.outcomes[Outcome.CLIENT_ERROR] == 1
        f.check_books_are_empty()


@pytest.mark.parametrize("leg", [0, 1], ids=["prefill", "decode"])
async def test_a_client_that_leaves_ends_the_leg_that_runs(pd, leg):
    closed = asyncio.Event()

    async def waits(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()
        closed.set()

    async with pd("pd", prefill, decode) as f:
        f.instances[leg].script = waits
        client = await f.client()
        sent = asyncio.create_task(client.post("/v1/chat/completions", CHAT))
        await f.until(lambda: bool(f.instances[leg].received))
        client.leave()
        await closed.wait()
        sent.cancel()
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes[Outcome.CANCELLED] == 1


async def test_a_prefill_that_hangs_runs_elsewhere(pd):
    async with pd("pd", hangs, decode, first_byte_timeout_s=0.05) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 200
        assert received(f.instances[1]) == [CHAT]


@pytest.mark.parametrize("fails_at_last", [False, True])
async def test_a_stream_that_waits_for_its_prefill_is_kept_open(pd, fails_at_last):
    go_on = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await go_on.wait()
        if fails_at_last:
            await conversation.send_json({"error": {"message": "bad grammar", "code": 400}}, "400 Bad Request")
        else:
            await prefill(conversation)

    async with pd("pd", slow, decode, about={"heartbeat_s": 0.01}) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", {**CHAT, "stream": True}))
        head = await client.answer_head()
        assert (await client.chunk()).startswith(b":")
        go_on.set()
        while (chunk := await client.chunk()).startswith(b":"):
            pass
        assert head.status == 200
        assert (b"bad grammar" in chunk) is fails_at_last
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()


async def test_a_stream_cut_in_the_decode_leg_goes_on_whole_at_another(pd, fleet):
    path, body = WAYS["chat"]
    body = body | {"messages": CHAT["messages"]}
    numbered = Numbered()
    numbered.fail_at[0] = (5, dies)
    expected = await undisturbed(fleet, path, body)
    async with pd("pdd", prefill, numbered, numbered, about=ON) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert answer.body == expected.body
        assert [len(i.received) for i in f.instances] == [1, 1, 1]
        assert ["kv_transfer_params" in asked for asked in numbered.asked] == [True, False]
        f.check_books_are_empty()


async def test_both_legs_are_explained(pd):
    async with pd("pd", prefill, decode) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT, "x-request-id: mine\r\n")
        found = f.gateway.noted.decisions.find("mine")
        assert [(one["leg"], one["instance_id"]) for one in found] == [("prefill", "i0"), ("decode", "i1")]
        first, second = map(explained, found)
        assert "mine: tiny, 1601 prompt tokens\n" in first
        assert "mine: tiny, 1601 prompt tokens, before all that waits\n" in second


async def test_the_threshold_is_a_setting(pd):
    async with pd("pd", prefill, decode, config=SchedulerConfig(min_prefill_leg_tokens=1_000_000)) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT)
        assert [len(i.received) for i in f.instances] == [0, 1]
