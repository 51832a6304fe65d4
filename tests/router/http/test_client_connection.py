"""HTTP as clients speak it, well and badly: keep-alive, pipelining, bodies, Expect, upgrade offers, smuggling."""

import asyncio
import json

import pytest

from tests.router.conftest import CHAT, Conversation, post

DATA = json.dumps(CHAT).encode()
CHAT_LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


async def echo_id(conversation: Conversation) -> None:
    await conversation.send_json({"id": conversation.request.headers["x-request-id"]})


async def test_one_connection_serves_many_requests(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        for number in range(5):
            answer = await client.post("/v1/chat/completions", CHAT, f"x-request-id: r{number}\r\n")
            assert answer.json == {"id": f"r{number}"}
        assert len(f.gateway.service.clients) == 1


async def test_pipelined_requests_are_answered_in_order(fleet):
    async with fleet(echo_id, echo_id) as f:
        client = await f.client()
        requests = [post("/v1/chat/completions", CHAT, f"x-request-id: r{n}\r\n") for n in range(4)]
        requests.insert(2, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        requests.insert(4, b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.send(b"".join(requests))
        answers = [await client.answer() for _ in requests]
        assert [a.json.get("id", a.status) for a in answers] == ["r0", "r1", 200, "r2", 404, "r3"]
        f.check_books_are_empty()


async def test_reading_stops_while_more_is_pipelined_than_allowed_and_goes_on_later(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await conversation.send_json({})

    async with fleet(answer_late, max_pipelined=2) as f:
        client = await f.client()
        for _ in range(4):
            await client.send(post("/v1/chat/completions", CHAT))
        (connection,) = f.gateway.service.clients
        await f.until(lambda: not connection.transport.is_reading())
        release.set()
        for _ in range(4):
            assert (await client.answer()).status == 200
        assert connection.transport.is_reading()


async def test_thousands_of_tiny_pipelined_requests_are_all_answered(fleet):
    async with fleet() as f:
        client = await f.client(limit=1 << 22)
        count = 3000
        client.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * count)
        for _ in range(count):
            assert (await client.answer()).status == 200


CHUNKED = (
    CHAT_LINE + b"Transfer-Encoding: chunked\r\nx-request-id: c\r\n\r\n"
    b"5;name=value\r\n" + DATA[:5] + b"\r\n" + b"%X\r\n" % len(DATA[5:]) + DATA[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n"
)


async def test_a_chunked_body_is_put_together_however_it_is_cut(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        for cut in range(1, len(CHUNKED)):
            await client.send(CHUNKED[:cut])
            await asyncio.sleep(0)
            await client.send(CHUNKED[cut:])
            assert (await client.answer()).json == {"id": "c"}
        bodies = {(received.body, received.headers["content-length"]) for received in f.instances[0].received}
        assert bodies == {(DATA, str(len(DATA)))}
        assert all("trailer" not in received.headers for received in f.instances[0].received)


async def test_an_http_1_0_client_gets_an_unchunked_answer_and_the_end_of_the_connection(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nConnection: keep-alive\r\ncontent-length: %d\r\n\r\n%b"
            % (len(DATA), DATA)
        )
        answer = await client.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await client.at_end()


async def test_connection_close_is_honoured(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, "Connection: close\r\n")
        assert answer.headers["connection"] == "close"
        assert await client.at_end()
        await f.until(lambda: not f.gateway.service.clients)


async def test_a_body_is_asked_for_where_the_client_expects_that(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        for _ in range(2):
            await client.send(CHAT_LINE + b"Expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(DATA))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(DATA)
            assert (await client.answer()).status == 200
        assert all("expect" not in received.headers for received in f.instances[0].received)


async def test_a_body_that_is_not_waited_for_is_not_asked_for(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        await client.send(CHAT_LINE + b"Expect: 100-continue\r\ncontent-length: %d\r\n\r\n%b" % (len(DATA), DATA))
        assert (await client.answer()).status == 200  # an interim answer would be this one


async def test_a_pipelined_body_is_asked_for_when_its_turn_has_come(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await echo_id(conversation)

    async with fleet(answer_late) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT, "x-request-id: r0\r\n"))
        await client.send(CHAT_LINE + b"Expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(DATA))
        await f.until(lambda: len(f.instances[0].received) == 1)
        release.set()
        assert (await client.answer()).json == {"id": "r0"}
        assert (await client.answer_head()).status == 100
        await client.send(DATA)
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /nowhere HTTP/1.1\r\nhost: x\r\nExpect: 100-continue\r\ncontent-length: 5\r\n\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\nExpect: 100-continue\r\ncontent-length: 5\r\n\r\n", 405),
        (CHAT_LINE + b"Expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n", 413),
        (CHAT_LINE + b"Expect: 200-ok\r\ncontent-length: 5\r\n\r\n", 417),
    ],
)
async def test_a_body_is_not_asked_for_where_the_head_is_refused(fleet, head, status):
    async with fleet() as f:
        client = await f.client()
        await client.send(head)
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert answer.error["message"]
        assert await client.at_end()


async def test_an_offer_to_upgrade_is_ignored_and_the_body_read(fleet):
    """As Java's HTTP client sends it."""
    async with fleet(echo_id) as f:
        client = await f.client()
        upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
        upgrade += "x-request-id: u\r\n"
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", CHAT, upgrade)).json == {"id": "u"}
        request = post("/v1/chat/completions", CHAT, upgrade)
        for cut in range(1, len(request), 7):
            await client.send(request[:cut])
            await asyncio.sleep(0)
            await client.send(request[cut:])
            assert (await client.answer()).json == {"id": "u"}
        assert {received.body for received in f.instances[0].received} == {DATA}
        assert not {"upgrade", "connection", "http2-settings"} & set(f.instances[0].received[0].headers)


MALFORMED = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /health\r\n\r\n",
    "http/2.0 in a line": b"GET /health HTTP/2.0\r\nhost: x\r\n\r\n",
    "bare line feeds": b"GET /health HTTP/1.1\nhost: x\n\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "a host that is none": b"GET /health HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "a host with a user": b"GET /health HTTP/1.1\r\nhost: u@x\r\n\r\n",
    "space before colon": b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
    "nul in a value": b"GET /health HTTP/1.1\r\nhost: x\x00\r\n\r\n",
    "folded line": b"GET /health HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n",
    "length and chunked": CHAT_LINE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": CHAT_LINE + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": CHAT_LINE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "two equal lengths": CHAT_LINE + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "list of lengths": CHAT_LINE + b"content-length: 5, 5\r\n\r\nhello",
    "negative length": CHAT_LINE + b"content-length: -5\r\n\r\nhello",
    "length with a plus": CHAT_LINE + b"content-length: +5\r\n\r\nhello",
    "hexadecimal length": CHAT_LINE + b"content-length: 0x5\r\n\r\nhello",
    "huge length": CHAT_LINE + b"content-length: 99999999999999999999999\r\n\r\n",
    "gzip and chunked": CHAT_LINE + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": CHAT_LINE + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": CHAT_LINE + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "not quite chunked": CHAT_LINE + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked identity": CHAT_LINE + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked in 1.0": b"POST /v1/chat/completions HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size with 0x": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "negative chunk size": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "no chunk size": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
    "chunk longer than said": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "huge chunk size": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk ended by a line feed": CHAT_LINE + b"transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_request_that_could_be_read_in_two_ways_is_refused_and_ends_the_connection(fleet, case):
    async with fleet() as f:
        client = await f.client()
        await client.send(MALFORMED[case] + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert answer.error["type"] == "BadRequestError"
        assert answer.headers["connection"] == "close"
        assert await client.at_end()
        assert not f.instances[0].received
        f.check_books_are_empty()


async def test_a_malformed_request_is_answered_after_those_before_it(fleet):
    async with fleet(echo_id) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT, "x-request-id: r0\r\n") + b"garbage\r\n\r\n")
        assert (await client.answer()).json == {"id": "r0"}
        assert (await client.answer()).status == 400
        assert await client.at_end()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"POST /v2/chat HTTP/1.1", 404),
        (b"POST http://other/v2/chat HTTP/1.1", 404),
        (b"GET /v1/chat/completions HTTP/1.1", 405),
        (b"DELETE /v1/models HTTP/1.1", 405),
        (b"POST /health HTTP/1.1", 405),
    ],
)
async def test_unknown_paths_and_methods_are_refused_and_the_connection_goes_on(fleet, line, status):
    async with fleet() as f:
        client = await f.client()
        await client.send(line + b"\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
        answer = await client.answer()
        assert answer.status == status
        assert answer.error["code"] == status
        assert ("allow" in answer.headers) == (status == 405)
        assert (await client.get("/health")).status == 200


async def test_connect_is_refused(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n\x16\x03\x01")
        assert (await client.answer()).status == 404
        assert await client.at_end()


async def test_empty_lines_before_a_request_are_ignored(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(b"\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 200
