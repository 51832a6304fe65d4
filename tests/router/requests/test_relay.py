"""Requests to instances and answers back: what is sent on, and how bodies of every framing are relayed."""

import asyncio
import json

import pytest

from dualmap.router.requests.exchange import LARGE_BODY_BYTES
from dualmap.router.requests.phase import Phase
from tests.router.conftest import CHAT, STREAM, Conversation, post


async def test_a_plain_answer_comes_back_whole_with_the_headers_of_the_gateway(fleet):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, "x-request-id: abc-1\r\n")
        assert answer.status == 200
        assert answer.json["choices"] == [{"text": "hello"}]
        assert answer.headers["x-request-id"] == "abc-1"
        assert answer.headers["x-dualmap-instance"] == "i0"
        assert answer.headers["x-dualmap-queue-ms"].isdigit()
        f.check_books_are_empty()


async def test_the_instance_gets_the_body_untouched_and_the_head_without_hop_by_hop_fields(fleet):
    async with fleet() as f:
        client = await f.client()
        body = b'{ "model":"tiny" ,"messages": [ {"role":"user","content":"\\u00e9\\n"} ], "x": 1e3 }'
        headers = (
            "Authorization: Bearer k\r\nTraceParent: 00-1-2-01\r\nX-Tenant: t\r\nX-Tenant: u\r\n"
            "Connection: keep-alive, X-Private\r\nX-Private: secret\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
            "Proxy-Authorization: p\r\nAccept-Encoding: gzip\r\n"
        )
        await client.post("/v1/chat/completions?beta=1", body, headers)
        (received,) = f.instances[0].received
        assert received.line == "POST /v1/chat/completions?beta=1 HTTP/1.1"
        assert received.body == body
        assert received.headers["authorization"] == "Bearer k"
        assert received.headers["traceparent"] == "00-1-2-01"
        assert received.headers["host"] == f"127.0.0.1:{f.instances[0].port}"
        assert received.headers["content-length"] == str(len(body))
        dropped = {"connection", "x-private", "keep-alive", "te", "proxy-authorization", "accept-encoding"}
        assert not dropped & set(received.headers)


@pytest.mark.parametrize("given", ["", "x-request-id: \r\n", "x-request-id: a b\r\n", f"x-request-id: {'a' * 129}\r\n"])
async def test_a_request_id_is_made_up_where_the_client_gives_none_that_is_sane(fleet, given):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, given)
        assert answer.headers["x-request-id"].startswith("gateway-")
        assert f.instances[0].received[0].headers["x-request-id"] == answer.headers["x-request-id"]


async def test_clients_may_repeat_a_request_id_while_it_is_in_flight(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await conversation.send_json({})

    async with fleet(answer_late) as f:
        clients = [await f.client() for _ in range(2)]
        for client in clients:
            await client.send(post("/v1/chat/completions", CHAT, "x-request-id: same\r\n"))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 2)
        release.set()
        answers = [await client.answer() for client in clients]
        assert [a.headers["x-request-id"] for a in answers] == ["same", "same"]
        f.check_books_are_empty()


async def test_a_stream_is_relayed_event_by_event_as_it_comes(fleet):
    go_on = asyncio.Semaphore(0)

    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for number in range(3):
            await conversation.send_event(f'{{"n":{number}}}')
            await go_on.acquire()
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        head = await client.answer_head()
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        for number in range(3):
            assert await client.chunk() == b'data: {"n":%d}\n\n' % number  # the next one is not sent before this
            go_on.release()
        assert await client.chunk() == b"data: [DONE]\n\n"
        assert await client.chunk() == b""
        f.check_books_are_empty()


async def test_a_large_body_is_held_once_and_no_longer_than_another_instance_may_need_it(fleet):
    large = {**STREAM, "messages": [{"role": "user", "content": "x" * LARGE_BODY_BYTES}]}
    goes_on, ends = asyncio.Event(), asyncio.Event()
    asked = 0

    async def stream(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            conversation.reset()
            return
        await goes_on.wait()
        await conversation.begin_stream()
        await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
        await ends.wait()
        await conversation.end_stream()

    async with fleet(stream, stream) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", large))
        await f.until(lambda: asked == 2)
        (exchange,) = f.gateway.driver.exchanges.values()
        assert not exchange.arrived.body
        assert not exchange.arrived.http.body_pieces
        assert exchange.running.body is exchange.asked.prompt.body
        goes_on.set()
        await client.answer_head()
        assert exchange.running.body == exchange.asked.prompt.body == b""
        ends.set()
        assert [i.received[0].json["messages"] for i in f.instances] == [large["messages"]] * 2
        assert await client.chunk() == b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        assert await client.chunk() == b""
        f.check_books_are_empty()


async def test_the_head_of_a_stream_is_held_back_until_its_first_byte(fleet):
    """Until then another instance can take over, and the client need not know."""
    go_on = asyncio.Event()

    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await go_on.wait()
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        await f.until(lambda: len(f.instances[0].received) == 1)
        (exchange,) = f.gateway.driver.exchanges.values()
        assert exchange.phase is Phase.RUNNING
        go_on.set()
        assert (await client.answer()).chunks == [b"data: [DONE]\n\n"]


BODY = b'{"ok":true}'
FRAMINGS = {
    "content-length": b"content-length: 11\r\n\r\n" + BODY,
    "chunked": b"transfer-encoding: chunked\r\n\r\n4\r\n"
    + BODY[:4]
    + b"\r\n7;ext=1\r\n"
    + BODY[4:]
    + b"\r\n0\r\nT: x\r\n\r\n",
    "close": b"connection: close\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_of_any_framing_is_relayed_to_a_client_of_any_version(fleet, framing, version):
    async def answer(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nx-other: 1\r\n" + FRAMINGS[framing])
        if framing == "close":
            conversation.writer.close()

    async with fleet(answer) as f:
        client = await f.client()
        data = json.dumps(CHAT)
        await client.send(
            f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n{data}".encode()
        )
        received = await client.answer()
        assert received.body == BODY
        assert received.headers["x-other"] == "1"
        if version == "1.0":
            assert received.headers["connection"] == "close"
            assert "transfer-encoding" not in received.headers
            assert await client.at_end()
        f.check_books_are_empty()


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_an_answer_may_come_in_pieces_cut_anywhere(fleet, framing):
    async def answer(conversation: Conversation) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing]:
            await conversation.send(bytes([byte]))
            await asyncio.sleep(0)

    async with fleet(answer) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).body == BODY
        f.check_books_are_empty()


async def test_interim_answers_of_an_instance_are_skipped(fleet):
    async def answer(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await conversation.send_json({"ok": True})

    async with fleet(answer) as f:
        client = await f.client()
        received = await client.post("/v1/chat/completions", CHAT)
        assert received.json == {"ok": True}
        assert "link" not in received.headers


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_trailers_do_not_become_headers(fleet, kind):
    event = b"data: {}\n\n"

    async def answer(conversation: Conversation) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        trailers = b"X-Late: 1\r\nLocation: /late\r\nContent-Type: text/html\r\n"
        await conversation.send(head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(event), event, trailers))

    async with fleet(answer) as f:
        client = await f.client()
        for _ in range(2):
            received = await client.post("/v1/chat/completions", CHAT)
            assert (received.body, received.headers["content-type"]) == (event, kind)
            assert not {"x-late", "location"} & set(received.headers)
        assert f.instances[0].connections == 1


async def test_an_instance_that_changes_the_protocol_has_not_answered(fleet):
    async def switch(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x00")

    async with fleet(switch) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
        f.check_books_are_empty()


async def test_a_stream_is_known_in_any_case(fleet):
    async def answer(conversation: Conversation) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=UTF-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        body = b": comment\n\ndata: {}\n\n"
        await conversation.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    async with fleet(answer) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", STREAM)).body == b"data: {}\n\n"


NO_BODIES = [
    "204 No Content\r\n\r\n",
    "204 No Content\r\ncontent-length: 0\r\n\r\n",
    "200 OK\r\ncontent-length: 0\r\n\r\n",
]


@pytest.mark.parametrize("head", NO_BODIES)
async def test_an_answer_without_a_body_is_relayed(fleet, head):
    async def answer(conversation: Conversation) -> None:
        await conversation.send(f"HTTP/1.1 {head}".encode())

    async with fleet(answer) as f:
        client = await f.client()
        for _ in range(2):
            received = await client.post("/v1/chat/completions", CHAT)
            assert received.body == b""
            assert ("content-length" in received.headers) is head.startswith("200")
        f.check_books_are_empty()


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "422 Weird", "599 Own"])
async def test_errors_of_an_instance_are_relayed_untouched(fleet, status):
    async def answer(conversation: Conversation) -> None:
        await conversation.send_json({"error": {"message": "too long"}}, status)

    async with fleet(answer) as f:
        client = await f.client()
        received = await client.post("/v1/chat/completions", CHAT)
        assert received.status == int(status[:3])
        assert received.json == {"error": {"message": "too long"}}
        assert len(f.instances[0].received) == 1
        f.check_books_are_empty()


async def test_headers_that_an_instance_declares_hop_by_hop_are_not_relayed(fleet):
    async def answer(conversation: Conversation) -> None:
        headers = "connection: keep-alive, x-inner\r\nx-inner: 1\r\nkeep-alive: timeout=5\r\n"
        headers += "x-request-id: theirs\r\nx-outer: 2\r\n"
        await conversation.send_json({}, headers=headers)

    async with fleet(answer) as f:
        client = await f.client()
        received = await client.post("/v1/chat/completions", CHAT, "x-request-id: ours\r\n")
        assert not {"x-inner", "keep-alive", "connection"} & set(received.headers)
        assert received.headers["x-outer"] == "2"
        assert received.headers["x-request-id"] == "ours"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/audio/transcriptions", "/v1/x?y=z"])
async def test_other_posts_pass_through_with_their_body_unread(fleet, path):
    async with fleet(cards=({"id": "tiny"},)) as f:
        client = await f.client()
        answer = await client.post(path, b"\x00not json", "content-type: application/octet-stream\r\n")
        assert answer.status == 200
        assert f.instances[0].received[0].body == b"\x00not json"
        assert f.instances[0].received[0].line == f"POST {path} HTTP/1.1"
        f.check_books_are_empty()


async def test_a_growing_chat_stays_on_one_of_two_instances(fleet):
    async with fleet(*(_hello for _ in range(4))) as f:
        client = await f.client()
        messages = [{"role": "system", "content": "s" * 3000}]
        instances = set()
        for turn in range(6):
            messages.append({"role": "user", "content": f"question {turn} " + "q" * 2500})
            answer = await client.post("/v1/chat/completions", {"model": "tiny", "messages": messages})
            instances.add(answer.headers["x-dualmap-instance"])
            messages.append({"role": "assistant", "content": f"answer {turn}"})
        assert len(instances) <= 2
        f.check_books_are_empty()


async def _hello(conversation: Conversation) -> None:
    await conversation.send_json({"choices": []})
