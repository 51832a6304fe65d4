"""Clients that close their sending side: whoever waits for an answer gets it, whoever has left frees its place."""

import asyncio
import json

import pytest

from dualmap.router.http.half_closed import HalfClosed
from dualmap.router.requests.answer_writer import BEGINNING
from dualmap.router.requests.exchange import Exchange
from dualmap.scheduler import InstanceCapacity
from tests.router.conftest import CHAT, STREAM, Client, Conversation, post, replace_method


class Gate:
    """An instance that answers when it is told to."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.left = asyncio.Event()

    async def answer(self, conversation: Conversation) -> None:
        streams = conversation.request.json.get("stream")
        if streams:
            await conversation.begin_stream()
            await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
        await self.opened.wait()
        if streams:
            await conversation.send_event('{"choices":[{"delta":{"content":"b"}}]}')
            await conversation.send_event("[DONE]")
            await conversation.end_stream()
        else:
            await conversation.send_json({"id": "late"})

    async def never_answer(self, conversation: Conversation) -> None:
        if conversation.request.json.get("stream"):
            await conversation.begin_stream()
            await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
        await conversation.closed_by_gateway()
        self.left.set()


async def sweeps(f, count: int) -> None:
    """Let so many checks of connections pass."""
    service, swept = f.gateway.service, 0
    real = service.sweep

    def counted(now: float) -> None:
        nonlocal swept
        swept += 1
        real(now)

    replace_method(service, "sweep", counted)
    await f.until(lambda: swept >= count)
    replace_method(service, "sweep", real)


async def began(f) -> list[Exchange]:
    await f.until(lambda: bool(f.gateway.driver.exchanges))
    return list(f.gateway.driver.exchanges.values())


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_client_that_half_closes_is_answered_whole_and_then_let_go(fleet, body, waits):
    gate = Gate()
    async with fleet(gate.answer) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", body))
        client.writer.write_eof()
        await f.until(lambda: len(f.instances[0].received) == 1)
        if waits:
            await sweeps(f, 60)  # time for many probes
        gate.opened.set()
        answer = await client.answer()
        assert answer.status == 200
        if body is CHAT:
            assert answer.json == {"id": "late"}
        else:
            events = answer.body.decode().split("\n\n")
            deltas = [json.loads(event[6:])["choices"][0]["delta"]["content"] for event in events[:2]]
            assert (deltas, events[2:]) == (["a", "b"], ["data: [DONE]", ""])
        assert await client.at_end()
        await f.until(lambda: not f.gateway.service.clients)
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes["ok"] == 1


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_comments_follow_what_was_sent_ahead_of_an_answer(fleet, version):
    """A stream whose first token is long in coming: bytes of its head, the rest of it with comments, the answer."""
    gate = Gate()

    async def answer_late(conversation: Conversation) -> None:
        await gate.opened.wait()
        await gate.answer(conversation)

    async with fleet(answer_late, about={"heartbeat_s": 0.1}) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM).replace(b"HTTP/1.1", version, 1))
        client.writer.write_eof()
        (exchange,) = await began(f)
        await f.until(lambda: exchange._writer.is_open)
        await sweeps(f, 20)
        gate.opened.set()
        answer = await client.answer()
        assert answer.status == 200
        assert answer.body.startswith(b": keep-alive\n\n")
        assert answer.body.endswith(b"data: [DONE]\n\n")
        f.check_books_are_empty()


async def test_what_is_answered_at_once_is_answered_as_ever(fleet):
    async with fleet() as f:
        for request in (
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /health HTTP/1.0\r\n\r\n",
            b"nonsense\r\n\r\n",
        ):
            client = await f.client()
            client.writer.write(request)
            client.writer.write_eof()
            assert (await client.answer()).status in (200, 400)
            assert await client.at_end()


async def test_an_http_1_0_client_that_half_closes_is_answered(fleet):
    gate = Gate()
    async with fleet(gate.answer) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        client.writer.write_eof()
        await f.until(lambda: len(f.instances[0].received) == 1)
        await sweeps(f, 40)
        gate.opened.set()
        assert (await client.answer()).body.endswith(b"data: [DONE]\n\n")


async def test_all_requests_that_came_whole_are_answered(fleet):
    gate = Gate()
    async with fleet(gate.answer) as f:
        client = await f.client()
        await client.send(
            post("/v1/chat/completions", CHAT) * 3 + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nPOST /v1/ch"
        )
        client.writer.write_eof()
        await f.until(lambda: len(f.instances[0].received) == 1)
        await sweeps(f, 10)
        gate.opened.set()
        assert [(await client.answer()).status for _ in range(4)] == [200] * 4
        assert await client.at_end()
        assert len(f.instances[0].received) == 3
        f.check_books_are_empty()


async def test_a_request_that_did_not_come_whole_is_dropped(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT)[:-1])
        await f.until(lambda: len(f.gateway.service.clients) == 1)
        client.writer.write_eof()
        assert await client.at_end()
        assert not f.instances[0].received


async def test_an_error_is_told_whole_to_a_client_that_half_closed(fleet):
    gate = Gate()

    async def fail(conversation: Conversation) -> None:
        await gate.opened.wait()
        conversation.reset()

    async with fleet(fail) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        client.writer.write_eof()
        await f.until(lambda: len(f.instances[0].received) == 1)
        await sweeps(f, 10)
        gate.opened.set()
        assert (await client.answer()).error["type"] == "ServiceUnavailableError"
        assert await client.at_end()


@pytest.mark.parametrize("half_closes_first", [False, True])
@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_client_that_leaves_frees_its_place_while_the_instance_is_silent(fleet, body, half_closes_first):
    gate = Gate()
    async with fleet(gate.never_answer) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", body))
        await f.until(lambda: len(f.instances[0].received) == 1)
        if body is STREAM:
            await client.answer_head()
        if half_closes_first:
            client.writer.write_eof()
            await sweeps(f, 20)
            assert f.gateway.driver.exchanges
        client.leave()
        await gate.left.wait()
        await f.until(lambda: not f.gateway.service.clients)
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes["cancelled"] == 1


async def test_a_client_that_half_closes_keeps_its_place_in_the_queue_and_one_that_leaves_does_not(fleet):
    gate = Gate()
    async with fleet(gate.answer) as f:
        f.apply()  # the instance comes back as one that runs a single request
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        clients: list[Client] = []
        view = None
        for waiting in range(3):
            clients.append(await f.client())
            await clients[-1].send(post("/v1/chat/completions", CHAT))
            await f.until(lambda: len(f.gateway.driver.exchanges) == len(clients))
            view = f.gateway.scheduler.instances["i0"]
            assert view.waiting_count == waiting
        clients[1].leave()
        clients[2].writer.write_eof()
        await f.until(lambda: view.waiting_count == 1)
        gate.opened.set()
        for client in (clients[0], clients[2]):
            assert (await client.answer()).json == {"id": "late"}
        f.check_books_are_empty()
        assert len(f.instances[0].received) == 2


def test_a_client_is_probed_again_whenever_its_silence_has_doubled():
    connection = HalfClosed(0, since=100.0)
    probed = [now for now in (100.0 + 0.5 * i for i in range(1, 1200)) if connection.probe_due(now)]
    assert probed == [100.5, 101.0, 102.0, 104.0, 108.0, 116.0, 132.0, 164.0, 228.0, 356.0, 612.0]
    assert len(BEGINNING) >= len([now for now in probed if now < 200.0])
