"""A gateway that another one follows: its listening sockets go on, its connections end with their answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from dualmap.router.gateway import leaving
from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.hand_over import ADMIN, CLIENTS, HandOver, take_over
from dualmap.router.gateway.pool import Pool
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.scheduler import Scheduler, SchedulerConfig
from tests.router.conftest import CHAT, STREAM, TEST_LIMITS, Conversation, Fleet, post

LONG_S = 100.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(leaving, "ACCEPTED_S", 0.0)
    monkeypatch.setattr(leaving, "POLL_S", 0.001)
    monkeypatch.setattr(leaving, "IDLE_S", LONG_S)


@asynccontextmanager
async def leaves(fleet: Fleet) -> AsyncIterator[asyncio.Task[None]]:
    """The task ends once all has left."""
    task = asyncio.create_task(fleet.gateway.leave(LONG_S))
    await fleet.until(lambda: fleet.gateway.service.leaving)
    yield task
    await task
    assert not fleet.gateway.service.clients


async def test_a_connection_ends_with_the_answer_to_what_still_comes(fleet):
    async with fleet(linger_s=0.01) as f:
        client = await f.client()
        assert "connection" not in (await client.post("/v1/chat/completions", CHAT)).headers
        async with leaves(f):
            with pytest.raises(ConnectionError):
                await f.client()
            answer = await client.post("/v1/chat/completions", CHAT)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.at_end()
        f.check_books_are_empty()


async def test_an_answer_under_way_ends_and_its_connection_with_the_next(fleet):
    release = asyncio.Event()

    async def answer(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
        await release.wait()
        await conversation.end_stream()

    async with fleet(answer, linger_s=0.01) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        await client.chunk()
        async with leaves(f):
            release.set()
            assert await client.chunk() == b""
            assert (await client.post("/v1/chat/completions", STREAM)).headers["connection"] == "close"
            assert await client.at_end()
        f.check_books_are_empty()


async def test_requests_sent_at_once_are_all_answered(fleet):
    async with fleet(linger_s=0.01) as f:
        client = await f.client()
        await client.get("/health")
        async with leaves(f):
            await client.send(post("/v1/chat/completions", CHAT) * 2)
            first, second = await client.answer(), await client.answer()
            assert ("connection" in first.headers, second.headers["connection"]) == (False, "close")
            assert await client.at_end()


async def test_a_connection_that_stays_idle_is_closed(fleet, monkeypatch):
    monkeypatch.setattr(leaving, "IDLE_S", 0.0)
    async with fleet(linger_s=0.01) as f:
        idle, reading = await f.client(), await f.client()
        await idle.get("/health")
        await reading.send(b"GET /health HTTP/1.1\r\n")
        await f.until(lambda: len(f.gateway.service.clients) == 2)
        async with leaves(f):
            assert await idle.at_end()
            await reading.send(b"host: x\r\n\r\n")
            assert (await reading.answer()).headers["connection"] == "close"


async def test_what_does_not_end_is_not_waited_for_longer_than_is_said(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: bool(f.gateway.driver.exchanges))
        await f.gateway.leave(0.01)
        await f.gateway.stop()
        assert (await client.answer()).status == 503


def another(fleet: Fleet) -> Gateway:
    config = SchedulerConfig()
    gateway = Gateway(
        [Pool("", Scheduler(config))], TEST_LIMITS, GatewayMetrics(), block_tokens=config.block_tokens, gateway_id="b"
    )
    gateway.apply_membership(replace(fleet.gateway.membership))
    return gateway


async def test_a_connection_that_waits_to_be_accepted_is_served_by_the_gateway_that_follows(fleet):
    async with fleet() as f:
        handed = HandOver(f.gateway.listeners())
        sockets = await asyncio.to_thread(take_over, handed.path)
        assert {name: len(found) for name, found in sockets.items()} == {CLIENTS: 1, ADMIN: 1}
        f.gateway.front.close()
        await asyncio.sleep(0)
        waits = await f.client()
        await waits.send(post("/v1/chat/completions", CHAT))
        follower = another(f)
        await follower.start("127.0.0.1", 0, inherited=sockets)
        try:
            assert (follower.port, follower.admin_port) == (f.port, f.admin_port)
            answer = await waits.answer()
            assert (answer.status, answer.headers["x-request-id"].split("-")[0]) == (200, "b")
        finally:
            await follower.stop()


async def test_nothing_is_taken_over_once_it_was_given_or_where_nobody_gives(fleet, tmp_path):
    async with fleet() as f:
        handed = HandOver(f.gateway.listeners())
        for sock in (s for found in (await asyncio.to_thread(take_over, handed.path)).values() for s in found):
            sock.close()
        assert not await asyncio.to_thread(take_over, handed.path)
        assert not take_over(str(tmp_path / "nobody"))
