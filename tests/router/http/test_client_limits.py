"""What a client may take: sizes, connections, time."""

import asyncio
from dataclasses import replace

import pytest

from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.conftest import CHAT, TEST_LIMITS, Conversation, post

CHAT_LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
SHORT_S = 0.02  # short time-outs end a test soon; all others keep their defaults, far above


async def test_a_head_that_never_ends_is_refused_before_much_of_it_is_kept(fleet):
    async with fleet(max_head_bytes=1000) as f:
        client = await f.client()
        client.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 2000)
        answer = await client.answer()
        assert answer.status == 431
        assert answer.error["type"] == "RequestTooLargeError"
        assert await client.at_end()


@pytest.mark.parametrize("header", [b"x-long: " + b"a" * 1000, b"\r\n".join(b"x-%d: a" % n for n in range(200))])
async def test_a_complete_head_that_is_too_large_is_refused(fleet, header):
    async with fleet(max_head_bytes=1000) as f:
        client = await f.client()
        await client.send(b"GET /health HTTP/1.1\r\nhost: x\r\n" + header + b"\r\n\r\n")
        assert (await client.answer()).status == 431
        assert await client.at_end()


async def test_a_small_head_right_behind_a_large_body_is_not_taken_for_a_large_head(fleet):
    async with fleet(max_head_bytes=1000) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT | {"x": "y" * 5000}) + b"GET /health HTTP/1.1\r\nhos")
        assert (await client.answer()).status == 200
        await client.send(b"t: x\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_a_body_said_to_be_too_large_is_refused_at_its_head(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(CHAT_LINE + b"content-length: 20000000\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 413
        assert "16777216 bytes" in answer.error["message"]
        assert await client.at_end()


async def test_a_client_that_sends_20_mb_regardless_can_still_read_the_refusal(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(CHAT_LINE + b"content-length: 20000000\r\n\r\n")
        await client.send(b"x" * 20_000_000)
        assert (await client.answer()).status == 413
        assert not f.instances[0].received


async def test_a_chunked_body_is_refused_once_it_is_too_large_and_not_kept(fleet):
    async with fleet(max_body_bytes=100_000) as f:
        client = await f.client()
        await client.send(CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        client.writer.write(chunk * 100)
        assert (await client.answer()).status == 413
        assert await client.at_end()


async def test_a_head_that_is_not_complete_in_time_gets_408(fleet):
    async with fleet(header_timeout_s=SHORT_S) as f:
        client = await f.client()
        await client.send(b"GET /health HTTP/1.1\r\nho")
        answer = await client.answer()
        assert answer.status == 408
        assert "head" in answer.error["message"]
        assert await client.at_end()


async def test_a_body_that_is_not_complete_in_time_gets_408(fleet):
    async with fleet(header_timeout_s=SHORT_S, body_timeout_s=SHORT_S) as f:
        client = await f.client()
        await client.send(CHAT_LINE + b"content-length: 100\r\n\r\n{")
        answer = await client.answer()
        assert answer.status == 408
        assert "body" in answer.error["message"]
        assert await client.at_end()


async def test_the_time_for_a_pipelined_request_does_not_run_while_the_one_before_is_answered(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await conversation.send_json({})

    now = 0.0
    async with fleet(answer_late, sweep_interval_s=3600.0, about={"clock": lambda: now}) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT) + CHAT_LINE)
        await f.until(lambda: len(f.instances[0].received) == 1)
        (connection,) = f.gateway.service.clients
        now = 300.0
        connection.sweep(now)
        release.set()
        assert (await client.answer()).status == 200
        connection.sweep(now)
        await client.send(b"content-length: 0\r\n\r\n")
        assert (await client.answer()).status == 200  # the body is empty, but it was read


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_connection_that_stays_idle_is_closed(fleet, requests_before):
    now = 0.0
    async with fleet(about={"clock": lambda: now}) as f:
        client = await f.client()
        for _ in range(requests_before):
            assert (await client.get("/health")).status == 200
        await f.until(lambda: len(f.gateway.service.clients) == 1)
        now = 76.0
        assert await client.at_end()
        await f.until(lambda: not f.gateway.service.clients)


async def test_a_client_that_reads_nothing_for_too_long_is_dropped_and_its_booking_freed(fleet):
    async def flood(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.send_event("x" * 50_000)

    async with fleet(flood, write_timeout_s=SHORT_S) as f:
        client = await f.client(limit=1024)
        await client.send(post("/v1/chat/completions", CHAT | {"stream": True}))
        await client.answer_head()
        client.writer.transport.pause_reading()
        await f.until(lambda: not f.gateway.service.clients)
        f.check_books_are_empty()
        await f.until(lambda: f.instances[0].open_connections == 0)


async def test_a_client_that_keeps_an_ended_connection_open_is_cut_off(fleet):
    async with fleet(linger_s=SHORT_S) as f:
        client = await f.client()
        await client.send(b"garbage\r\n\r\n")
        assert (await client.answer()).status == 400
        await f.until(lambda: not f.gateway.service.clients)


async def test_connections_above_the_limit_get_503(fleet):
    async with fleet(max_connections=1) as f:
        first = await f.client()
        assert (await first.get("/health")).status == 200
        second = await f.client()
        answer = await second.answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert await second.at_end()
        assert (await first.get("/health")).status == 200


async def test_limits_that_change_hold_for_connections_and_attempts_to_come(fleet, deaf_port):
    async with fleet(connect_timeout_s=600.0) as f:
        f.apply(f.member(0, endpoint=Endpoint("127.0.0.1", deaf_port)))
        known = await f.client()
        assert (await known.get("/health")).status == 200
        f.gateway.reconfigure({}, replace(TEST_LIMITS, max_head_bytes=1000, connect_timeout_s=SHORT_S))
        long = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 2000 + b"\r\n\r\n"
        client = await f.client()
        await client.send(long)
        assert (await client.answer()).status == 431
        await known.send(long)
        assert (await known.answer()).status == 200
        await known.send(post("/v1/chat/completions", CHAT))
        assert (await known.answer()).status == 503
