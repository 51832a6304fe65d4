"""Clients that leave, and clients and instances of different speed."""

import asyncio
import socket

import pytest

from dualmap.router.http.connection_phase import ConnectionPhase
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.phase import Phase
from dualmap.scheduler import InstanceCapacity
from tests.router.conftest import CHAT, STREAM, TEST_LIMITS, Conversation, post


@pytest.mark.parametrize("how", ["leave", "leave_by_reset"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_aborts_its_request_at_the_instance_and_frees_the_booking(fleet, how, begun):
    left_at_instance = asyncio.Event()

    async def stream_and_wait(conversation: Conversation) -> None:
        await conversation.begin_stream()
        if begun:
            await conversation.send_event("{}")
        await conversation.closed_by_gateway()
        left_at_instance.set()

    async with fleet(stream_and_wait) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        if begun:
            await client.answer_head()
        else:
            await f.until(lambda: len(f.instances[0].received) == 1)
        assert f.gateway.scheduler.attempts
        getattr(client, how)()
        await left_at_instance.wait()
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes["cancelled"] == 1


async def test_a_client_that_leaves_while_its_request_waits_in_the_gateway_frees_its_place(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        f.apply()  # the instance comes back as one that runs a single request
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        first, second = await f.client(), await f.client()
        await first.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.instances[0].received) == 1)
        await second.send(post("/v1/chat/completions", CHAT))
        view = f.gateway.scheduler.instances["i0"]
        await f.until(lambda: view.waiting_count == 1)
        second.leave()
        await f.until(lambda: view.waiting_count == 0)
        first.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()
        assert len(f.instances[0].received) == 1


async def test_a_client_that_leaves_takes_its_pipelined_requests_along(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT) * 3)
        await f.until(lambda: len(f.instances[0].received) == 1)
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()
        assert len(f.instances[0].received) == 1


async def test_an_instance_is_not_read_faster_than_the_client_reads(fleet):
    event_bytes = 50_000
    total = 400
    sent = 0

    async def stream(conversation: Conversation) -> None:
        nonlocal sent
        conversation.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await conversation.begin_stream()
        for _ in range(total):
            await conversation.send_event("x" * event_bytes)
            sent += 1
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client(limit=65536)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        client.writer.transport.pause_reading()
        (connection,) = f.gateway.service.clients
        (exchange,) = f.gateway.driver.exchanges.values()
        await f.until(
            lambda: (
                connection.phase is ConnectionPhase.BLOCKED and not exchange.running.upstream._transport.is_reading()
            )
        )
        assert sent < total
        assert connection.transport.get_write_buffer_size() < 1_000_000  # the high-water mark and one read
        client.writer.transport.resume_reading()
        body_bytes = 0
        while chunk := await client.chunk():
            body_bytes += len(chunk)
        assert body_bytes == total * (event_bytes + len("data: \n\n"))
        f.check_books_are_empty()


async def test_a_paused_stream_is_no_stall(fleet):
    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for _ in range(200):
            await conversation.send_event("x" * 50_000)
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client(limit=1024)
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        client.writer.transport.pause_reading()
        (connection,) = f.gateway.service.clients
        await f.until(lambda: connection.phase is ConnectionPhase.BLOCKED)
        (exchange,) = f.gateway.driver.exchanges.values()
        assert not exchange.is_stalled(1e9, TEST_LIMITS, InstanceWork())
        assert not exchange.is_stalled(2e9, TEST_LIMITS, InstanceWork())
        client.writer.transport.resume_reading()
        while await client.chunk():
            pass


async def test_a_large_request_reaches_an_instance_that_reads_slowly(fleet):
    async with fleet() as f:
        client = await f.client()
        body = CHAT | {"x": "y" * 8_000_000}
        assert (await client.post("/v1/chat/completions", body)).status == 200
        assert f.instances[0].received[0].json == body


async def test_the_next_answer_respects_a_client_that_is_still_slow(fleet):
    """A pipelined request is begun while the answer before it fills the client's write buffer."""

    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for _ in range(100):
            await conversation.send_event("x" * 50_000)
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client()
        assert (await client.get("/health")).status == 200
        (connection,) = f.gateway.service.clients
        connection.pause_writing()  # as the transport would have, for what came before
        await client.send(post("/v1/chat/completions", STREAM))
        await f.until(lambda: any(e.phase is Phase.ANSWERING for e in f.gateway.driver.exchanges.values()))
        (exchange,) = f.gateway.driver.exchanges.values()
        assert not exchange.running.upstream._transport.is_reading()
        connection.resume_writing()
        assert len((await client.answer()).body) == 100 * 50_008
        f.check_books_are_empty()
