"""Streams whose first token is long in coming: their clients get the head of the answer, and comments, meanwhile."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import hash_key
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.phase import Phase
from dualmap.scheduler import InstanceCapacity
from tests.router.conftest import CHAT, STREAM, Answer, Client, Conversation, Fleet, post, replace_method

BEATS = {"heartbeat_s": 0.01}
COMMENT = b": keep-alive\n\n"
ROLE = '{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
TOKEN = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}'
FAILURE = '{"error":{"message":"no such grammar","type":"InternalServerError","param":null,"code":500}}'
EVENTS = f"data: {ROLE}\n\ndata: {TOKEN}\n\ndata: [DONE]\n\n".encode()
RESPONSE = {"model": "tiny", "input": "hi", "stream": True}
MESSAGE = {**STREAM, "max_tokens": 9}
Script = Callable[[Conversation], Awaitable[None]]


async def stream(conversation: Conversation) -> None:
    await conversation.begin_stream()
    for event in (ROLE, TOKEN, "[DONE]"):
        await conversation.send_event(event)
    await conversation.end_stream()


async def nothing(conversation: Conversation) -> None:
    await conversation.closed_by_gateway()


def after(told: asyncio.Event, script: Script) -> Script:
    async def late(conversation: Conversation) -> None:
        await told.wait()
        await script(conversation)

    return late


def plain(status: str, content: Any) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.send_json(content, status)

    return script


async def beating(client: Client, body: Any = STREAM, path: str = "/v1/chat/completions", more: str = "") -> Answer:
    """The head of the answer to a request, and a comment."""
    await client.send(post(path, body, more))
    head = await client.answer_head()
    assert await client.chunk() == COMMENT
    return head


async def rest(client: Client) -> bytes:
    """What comes besides comments."""
    body = b""
    while chunk := await client.chunk():
        if chunk != COMMENT:
            body += chunk
    return body


def error_of(body: bytes) -> dict[str, Any]:
    """Of a stream of chunks that ends with it and nothing else."""
    event, done, end = body.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    error: dict[str, Any] = json.loads(event.removeprefix(b"data: "))["error"]
    return error


async def test_a_client_who_waits_for_a_first_token_gets_a_head_and_comments(fleet):
    go_on = asyncio.Event()
    async with fleet(after(go_on, stream), about=BEATS) as f:
        client = await f.client()
        head = await beating(client, more="x-request-id: mine\r\n")
        assert (head.status, head.headers) == (
            200,
            {
                "content-type": "text/event-stream; charset=utf-8",
                "transfer-encoding": "chunked",
                "x-request-id": "mine",
            },
        )
        assert await client.chunk() == COMMENT
        (exchange,) = f.gateway.driver.exchanges.values()
        assert exchange.phase is Phase.RUNNING
        assert exchange.running.pieces == exchange.running.first_byte_at == 0
        go_on.set()
        assert await rest(client) == EVENTS
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200  # over the same connection
        assert f.gateway.metrics.outcomes[Outcome.OK] == 2
        f.check_books_are_empty()


async def test_a_client_who_waits_in_the_queue_gets_them_too(fleet):
    go_on = asyncio.Event()
    async with fleet(after(go_on, stream), about=BEATS) as f:
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        clients = [await f.client() for _ in range(2)]
        for client in clients:
            await beating(client)
        assert len(f.instances[0].received) == 1
        assert {e.phase for e in f.gateway.driver.exchanges.values()} == {Phase.WAITING, Phase.RUNNING}
        go_on.set()
        assert [await rest(client) for client in clients] == [EVENTS] * 2
        f.check_books_are_empty()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages", "/inference/v1/generate"])
async def test_streams_of_other_apis_get_them_too(fleet, path):
    body = {**STREAM, "prompt": "hi", "input": "hi", "token_ids": [1], "sampling_params": {}}
    async with fleet(nothing, about=BEATS) as f:
        await beating(await f.client(), body, path)


NO_STREAMS = [
    ("/v1/chat/completions", CHAT, BEATS),
    ("/v1/chat/completions", STREAM, {"heartbeat_s": 0.0}),
    ("/v1/chat/completions", STREAM, {}),
    ("/v1/chat/completions", STREAM, {"heartbeat_s": 3600.0}),
    ("/v1/audio/transcriptions", STREAM, BEATS),
    ("/v1/embeddings", STREAM, BEATS),
]


@pytest.mark.parametrize(("path", "body", "about"), NO_STREAMS)
async def test_nothing_is_sent_to_who_asks_for_no_stream_or_does_not_wait_long(fleet, path, body, about):
    swept = asyncio.Event()
    async with fleet(after(swept, plain("404 Not Found", {"error": {"code": 404}})), about=about) as f:
        client = await f.client()
        await client.send(post(path, body))
        await f.until(lambda: len(f.instances[0].received) == 1)
        count = sweeps(f)
        await f.until(lambda: count() > 5)
        swept.set()
        assert (await client.answer()).status == 404


def sweeps(f: Fleet) -> Callable[[], int]:
    """How often the gateway has looked at its exchanges since then."""
    done = 0
    sweep = f.gateway.driver.sweep

    def counted(*args: Any) -> None:
        nonlocal done
        sweep(*args)
        done += 1

    replace_method(f.gateway.driver, "sweep", counted)
    return lambda: done


async def test_a_request_whose_instance_dies_meanwhile_runs_elsewhere_unseen(fleet):
    dies, go_on = asyncio.Event(), asyncio.Event()
    asked = 0

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await conversation.begin_stream()
            await conversation.send_event(ROLE)
            await dies.wait()
            conversation.reset()
        else:
            await go_on.wait()
            await stream(conversation)

    async with fleet(script, script, about=BEATS) as f:
        client = await f.client()
        await beating(client)
        dies.set()
        await f.until(lambda: asked == 2)
        go_on.set()
        assert await rest(client) == EVENTS
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        assert f.gateway.scheduler.stats.retries == 1
        f.check_books_are_empty()


BAD = {"error": {"message": "bad grammar", "type": "BadRequestError", "param": "guided", "code": 400}}
NOT_STREAMED = {
    "refused": (plain("400 Bad Request", BAD), BAD["error"], Outcome.CLIENT_ERROR),
    "refused in other words": (
        plain("422 Unprocessable Entity", {"detail": "x"}),
        {
            "message": "The instance answered with HTTP 422.",
            "type": "UnprocessableEntityError",
            "param": None,
            "code": 422,
        },
        Outcome.CLIENT_ERROR,
    ),
    "failed": (
        plain("500 Internal Server Error", json.loads(FAILURE)),
        json.loads(FAILURE)["error"],
        Outcome.INSTANCE_ERROR,
    ),
    "no stream": (
        plain("200 OK", {"choices": []}),
        {
            "message": "The instance's answer is no stream of events.",
            "type": "BadGatewayError",
            "param": None,
            "code": 502,
        },
        Outcome.INSTANCE_ERROR,
    ),
}


@pytest.mark.parametrize(("script", "error", "outcome"), NOT_STREAMED.values(), ids=NOT_STREAMED)
async def test_an_answer_that_is_no_stream_becomes_an_error_event(fleet, script, error, outcome):
    go_on = asyncio.Event()
    async with fleet(after(go_on, script), about=BEATS) as f:
        client = await f.client()
        await beating(client)
        go_on.set()
        assert error_of(await rest(client)) == error
        assert (await client.get("/health")).status == 200
        assert f.gateway.metrics.outcomes[outcome] == 1
        f.check_books_are_empty()


async def test_what_each_instance_says_in_its_stream_is_told_in_the_stream(fleet):
    go_on = asyncio.Event()

    async def fails(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event(FAILURE)
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async with fleet(after(go_on, fails), about=BEATS) as f:
        client = await f.client()
        await beating(client)
        go_on.set()
        assert await rest(client) == f"data: {FAILURE}\n\ndata: [DONE]\n\n".encode()
        assert (await client.get("/health")).status == 200
        assert f.gateway.metrics.outcomes[Outcome.INSTANCE_ERROR] == 1
        f.check_books_are_empty()


async def test_what_the_gateway_refuses_later_becomes_an_error_event(fleet):
    async with fleet(nothing, about=BEATS) as f:
        client = await f.client()
        await beating(client)
        f.apply()
        error = error_of(await rest(client))
        assert (error["code"], error["message"]) == (503, "No instance is ready to serve the request.")
        assert (await client.get("/health")).status == 200
        f.check_books_are_empty()


async def test_a_time_out_becomes_an_error_event(fleet):
    async with fleet(nothing, about=BEATS) as f:
        client = await f.client()
        await beating(client, more="x-dualmap-timeout-ms: 300\r\n")
        assert error_of(await rest(client))["code"] == 504
        f.check_books_are_empty()


async def test_a_gateway_that_stops_says_so_in_the_stream(fleet):
    async with fleet(nothing, about=BEATS) as f:
        client = await f.client()
        await beating(client)
        await f.gateway.stop(drain_s=0.02)
        assert error_of(await rest(client))["message"] == "The gateway is shutting down."
        assert await client.at_end()
        f.check_books_are_empty()


async def test_an_error_event_has_the_shape_of_its_api(fleet):
    go_on = asyncio.Event()
    async with fleet(after(go_on, plain("400 Bad Request", BAD)), about=BEATS) as f:
        response, message = await f.client(), await f.client()
        await beating(response, RESPONSE, "/v1/responses")
        await beating(message, MESSAGE, "/v1/messages")
        go_on.set()
        name, data = (await rest(response)).strip().split(b"\n")
        assert name == b"event: error"
        assert json.loads(data.removeprefix(b"data: ")) == {
            "type": "error",
            "code": "400",
            "message": "bad grammar",
            "param": "guided",
            "sequence_number": 0,
        }
        name, data = (await rest(message)).strip().split(b"\n")
        assert name == b"event: error"
        assert json.loads(data.removeprefix(b"data: ")) == {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "bad grammar"},
        }


async def test_a_client_of_http_1_0_gets_them_without_chunks(fleet):
    go_on = asyncio.Event()
    async with fleet(after(go_on, stream), about=BEATS) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head = await client.answer_head()
        assert head.headers["connection"] == "close"
        assert "transfer-encoding" not in head.headers
        assert await client.reader.readexactly(2 * len(COMMENT)) == 2 * COMMENT
        go_on.set()
        assert (await client.reader.read()).replace(COMMENT, b"") == EVENTS
        f.check_books_are_empty()


async def test_a_client_who_takes_nothing_is_sent_nothing(fleet):
    async with fleet(nothing, about=BEATS) as f:
        client = await f.client()
        await beating(client)
        (connection,) = f.gateway.service.clients
        connection.pause_writing()  # as the transport does when its buffer is full
        (exchange,) = f.gateway.driver.exchanges.values()
        sent: list[bytes] = []
        exchange._writer._write = sent.append
        count = sweeps(f)
        await f.until(lambda: count() > 5)
        assert not sent
        connection.resume_writing()
        await f.until(lambda: bool(sent))


async def test_a_client_who_leaves_meanwhile_cancels_its_request(fleet):
    async with fleet(nothing, about=BEATS) as f:
        client = await f.client()
        await beating(client)
        client.leave()
        await f.until(lambda: f.gateway.metrics.outcomes[Outcome.CANCELLED] == 1)
        await f.until(lambda: f.instances[0].open_connections == 0)
        f.check_books_are_empty()


async def test_the_head_says_what_is_left_of_an_api_key(fleet, tmp_path):
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{sha256: {hash_key(b'secret')}, requests_per_minute: 60}}\n")
    access = Access(keys, lambda: 0.0)
    async with fleet(nothing, about={**BEATS, "access": access}) as f:
        head = await beating(await f.client(), more="authorization: Bearer secret\r\n")
        assert head.headers["x-ratelimit-limit-requests"] == "60"
