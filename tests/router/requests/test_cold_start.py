"""Requests that come while no instance is there, at a gateway that holds them until one comes."""

import asyncio

import pytest

from dualmap.router.observe.metrics import Outcome
from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.held_requests import HeldWork
from tests.router.conftest import CHAT, STREAM, Fleet, post
from tests.router.requests.test_heartbeats import COMMENT, EVENTS, error_of, rest, stream

HOLDS = SchedulerConfig(cold_start_timeout_s=60.0)
CARDS = ({"id": "tiny", "object": "model"},)


def settings(cold_start_timeout_s: float) -> dict:
    return {"": SchedulerConfig(cold_start_timeout_s=cold_start_timeout_s)}


async def held(f: Fleet, count: int = 1) -> None:
    await f.until(lambda: len(f.gateway.scheduler.held) == count)


async def test_a_stream_gets_comments_while_it_is_held_and_then_its_answer(fleet):
    async with fleet(stream, config=HOLDS, cards=CARDS, about={"heartbeat_s": 0.01}) as f:
        f.apply()
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        assert (await client.answer_head()).status == 200
        assert await client.chunk() == COMMENT
        assert f.gateway.held.work()[""].requests == 1
        f.apply(f.member(0, model_cards=CARDS))
        assert await rest(client) == EVENTS
        f.check_books_are_empty()


async def test_a_plain_answer_is_waited_for_and_the_wait_is_told(fleet):
    async with fleet(config=HOLDS, cards=CARDS, about={"heartbeat_s": 0.01}) as f:
        f.apply()
        client, other = await f.client(), await f.client()
        answer = asyncio.create_task(client.post("/v1/chat/completions", CHAT, "x-request-id: mine\r\n"))
        await held(f)
        assert isinstance(f.gateway.held.work()[""], HeldWork)
        assert f.gateway.status()["held"] == f.gateway.live(None, "")["held"] == 1
        assert b'dualmap_held_requests{pool=""} 1.0' in f.gateway.metrics.scrape()
        assert f.gateway.held.stories("mine") == [("held since 0.000 s after its arrival: no instance can run it",)]
        assert (await other.get("/ready")).status == 200
        assert (await other.get("/v1/models")).json["data"] == list(CARDS)
        f.apply(f.member(0, model_cards=CARDS))
        assert (await answer).status == 200
        assert f.gateway.status()["held"] == 0


async def test_a_stream_that_no_instance_came_for_ends_with_an_error(fleet):
    async with fleet(config=HOLDS, about={"heartbeat_s": 0.01}) as f:
        f.apply()
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        await client.chunk()
        f.gateway.reconfigure(settings(0.001), f.gateway.front.limits)
        error = error_of(await rest(client))
        assert error["code"] == 503
        assert f.gateway.metrics.outcomes[Outcome.REJECTED_NO_INSTANCE] == 1


async def test_who_waited_in_vain_for_a_plain_answer_is_told_to_come_back(fleet):
    config = SchedulerConfig(cold_start_timeout_s=0.01)
    async with fleet(config=config) as f:
        f.apply()
        answer = await (await f.client()).post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_a_client_that_leaves_is_held_no_more(fleet):
    async with fleet(config=HOLDS) as f:
        f.apply()
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await held(f)
        client.leave()
        await held(f, 0)
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes[Outcome.CANCELLED] == 1


async def test_a_gateway_that_stops_tells_those_that_are_held(fleet):
    async with fleet(config=HOLDS) as f:
        f.apply()
        client = await f.client()
        answer = asyncio.create_task(client.post("/v1/chat/completions", CHAT))
        await held(f)
        await f.gateway.stop(0.0)
        assert (await answer).status == 503
        f.check_books_are_empty()


async def test_a_model_that_the_first_instance_turns_out_not_to_serve_is_not_there(fleet):
    async with fleet(config=HOLDS) as f:
        f.apply()
        client, other = await f.client(), await f.client()
        wrong = asyncio.create_task(client.post("/v1/chat/completions", {**CHAT, "model": "typo"}))
        right = asyncio.create_task(other.post("/v1/chat/completions", CHAT))
        await held(f, 2)
        f.apply(f.member(0, model_cards=CARDS))
        assert (await wrong).status == 404
        assert (await right).status == 200
        f.check_books_are_empty()


@pytest.mark.parametrize(("known_by", "path"), [("configuration", "named"), ("what served last", "")])
async def test_a_pool_at_zero_is_found_by_its_model_among_others(fleet, known_by: str, path: str):
    cards = ({"id": "big", "object": "model"},)
    named = {"b": ("big",)} if path else None
    async with fleet(config=HOLDS, cards=CARDS, pools=("", "b"), about={"named": named}) as f:
        first = f.member(0, model_cards=CARDS)
        if not path:
            f.apply(first, f.member(0, instance_id="other", model_cards=cards, pool="b"))
        f.apply(first)
        client = await f.client()
        unknown = await client.post("/v1/chat/completions", {**CHAT, "model": "neither"})
        assert unknown.status == 404, known_by
        assert [card["id"] for card in (await client.get("/v1/models")).json["data"]] == ["big", "tiny"]
        answer = asyncio.create_task(client.post("/v1/chat/completions", {**CHAT, "model": "big"}))
        await f.until(lambda: len(f.gateway.pools["b"].scheduler.held) == 1)
        f.apply(first, f.member(0, instance_id="other", model_cards=cards, pool="b"))
        assert (await answer).status == 200


async def test_a_pool_of_which_nothing_is_known_may_serve_what_others_do_not(fleet):
    cards = ({"id": "big", "object": "model"},)
    async with fleet(config=HOLDS, cards=CARDS, pools=("", "b")) as f:
        client = await f.client()
        answer = asyncio.create_task(client.post("/v1/chat/completions", {**CHAT, "model": "big"}))
        await f.until(lambda: len(f.gateway.pools["b"].scheduler.held) == 1)
        f.apply(f.member(0, model_cards=CARDS), f.member(0, instance_id="other", model_cards=cards, pool="b"))
        assert (await answer).status == 200


async def test_without_holding_a_gateway_without_instances_is_not_ready(fleet):
    async with fleet() as f:
        f.apply()
        client = await f.client()
        assert (await client.get("/ready")).status == 503
        f.gateway.reconfigure(settings(5.0), f.gateway.front.limits)
        assert (await client.get("/ready")).status == 200
