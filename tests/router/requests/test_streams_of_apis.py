"""Streams of responses and messages: when they begin, how they fail, and how they end then."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.phase import Phase
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import STREAM, Conversation, post

REQUEST = {**STREAM, "input": "hi", "max_tokens": 9}
Script = Callable[[Conversation], Awaitable[None]]


def named(name: str, **fields) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, separators=(',', ':'))}\n\n".encode()


def response(name: str, status: str, number: int, **fields) -> bytes:
    return named(
        f"response.{name}", response={"object": "response", "status": status, **fields}, sequence_number=number
    )


RESPONSE_START = response("created", "in_progress", 0) + response("in_progress", "in_progress", 1)
DELTA = named("response.output_text.delta", delta="a", sequence_number=4)
USAGE = {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 32}, "output_tokens": 12, "total_tokens": 52}
COMPLETED = response("completed", "completed", 5, output=[{}], usage=USAGE)
RESPONSE_FAILED = response("failed", "failed", 6, error={"code": "server_error", "message": "no"})
CANCELLED = response("completed", "cancelled", 5, output=[{}])

START = named("message_start", message={"stop_reason": None, "usage": {"input_tokens": 8, "output_tokens": 0}})
TEXT = named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
MESSAGE_USAGE = {
    "input_tokens": 8,
    "output_tokens": 12,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 32,
}
STOP = named("message_delta", delta={"stop_reason": "end_turn"}, usage=MESSAGE_USAGE) + named("message_stop")
MESSAGE_FAILED = named("error", error={"type": "internal_error", "message": "no"})
ABORTED = named("message_delta", delta={"stop_reason": None}, usage=MESSAGE_USAGE) + named("message_stop")

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
WHOLE = {
    "responses": (RESPONSES, RESPONSE_START, DELTA, COMPLETED),
    "messages": (MESSAGES, START, TEXT, STOP),
}


def stream(*parts: bytes, dies: bool = False) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for part in parts:
            await conversation.send(b"%x\r\n%b\r\n" % (len(part), part))
        if dies:
            conversation.reset()
        else:
            await conversation.end_stream()

    return script


def first_then(first: Script, others: Script) -> Script:
    asked = 0

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        await (first if asked == 1 else others)(conversation)

    return script


@pytest.mark.parametrize(("path", "start", "token", "end"), WHOLE.values(), ids=WHOLE)
async def test_a_stream_begins_with_its_first_token_and_tells_its_usage(fleet, path, start, token, end):
    go_on = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send(b"%x\r\n%b\r\n" % (len(start), start))
        await go_on.wait()
        for part in (token, token, end):
            await conversation.send(b"%x\r\n%b\r\n" % (len(part), part))
        await conversation.end_stream()

    async with fleet(script) as f:
        client = await f.client()
        await client.send(post(path, REQUEST))
        await f.until(lambda: any(e.running and e.running.event_stream for e in f.gateway.driver.exchanges.values()))
        (exchange,) = f.gateway.driver.exchanges.values()
        assert (exchange.phase, exchange.running.pieces) == (Phase.RUNNING, 0)
        go_on.set()
        answer = await client.answer()
        assert answer.body == start + token + token + end
        assert answer.chunks[0].startswith(start + token)
        metrics = f.gateway.metrics
        assert (metrics.prompt_tokens, metrics.cached_prompt_tokens, metrics.output_tokens) == (40, 32, 12)
        f.check_books_are_empty()


NO_TOKEN = {
    "a response's instance dies": (RESPONSES, stream(RESPONSE_START, dies=True), FailureCause.BROKEN),
    "a response fails": (RESPONSES, stream(RESPONSE_START, RESPONSE_FAILED), FailureCause.ERROR),
    "a response is cancelled": (RESPONSES, stream(RESPONSE_START, CANCELLED), FailureCause.ABORTED),
    "a message's instance dies": (MESSAGES, stream(START, dies=True), FailureCause.BROKEN),
    "a message fails": (MESSAGES, stream(MESSAGE_FAILED), FailureCause.ERROR),
    "a message is aborted": (MESSAGES, stream(START, ABORTED), FailureCause.ABORTED),
}


@pytest.mark.parametrize(("path", "failing", "cause"), NO_TOKEN.values(), ids=NO_TOKEN)
async def test_what_fails_before_a_token_runs_elsewhere_unseen(fleet, path, failing, cause):
    start, token, end = (RESPONSE_START, DELTA, COMPLETED) if path == RESPONSES else (START, TEXT, STOP)
    script = first_then(failing, stream(start, token, end))
    async with fleet(script, script) as f:
        client = await f.client()
        answer = await client.post(path, REQUEST)
        assert (answer.status, answer.body) == (200, start + token + end)
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        assert f.gateway.metrics.failures[cause] == 1
        f.check_books_are_empty()


AFTER_A_TOKEN = {
    "a response says why": (RESPONSES, (RESPONSE_START, DELTA), RESPONSE_FAILED, RESPONSE_FAILED),
    "a response is cancelled": (
        RESPONSES,
        (RESPONSE_START, DELTA),
        CANCELLED,
        named("error", code="502", message="?", param=None, sequence_number=5),
    ),
    "a message says why": (MESSAGES, (START, TEXT), MESSAGE_FAILED, MESSAGE_FAILED),
    "a message is aborted": (
        MESSAGES,
        (START, TEXT),
        ABORTED,
        named("error", error={"type": "api_error", "message": "?"}),
    ),
}


@pytest.mark.parametrize(("path", "parts", "failing", "told"), AFTER_A_TOKEN.values(), ids=AFTER_A_TOKEN)
async def test_what_fails_after_a_token_ends_with_an_error_event_of_its_api(fleet, path, parts, failing, told):
    message = b"The instance ended the answer by itself: it shuts down, or its engine failed."
    first_token_there = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        body = b"".join(parts)
        await conversation.begin_stream()
        await conversation.send(b"%x\r\n%b\r\n" % (len(body), body))
        await first_token_there.wait()
        await conversation.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(failing), failing))

    async with fleet(script, script) as f:
        client = await f.client()
        await client.send(post(path, REQUEST))
        await client.answer_head()
        assert await client.chunk() == b"".join(parts)
        first_token_there.set()
        assert await client.chunk() == told.replace(b"?", message)
        assert await client.chunk() == b""
        assert f.gateway.metrics.outcomes[Outcome.FAILED_STREAM] == 1
        assert sum(len(instance.received) for instance in f.instances) == 1
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("path", "parts", "body"),
    [
        (
            RESPONSES,
            (RESPONSE_START, RESPONSE_FAILED),
            {"error": {"message": "no", "type": "server_error", "param": None, "code": "server_error"}},
        ),
        (MESSAGES, (MESSAGE_FAILED,), {"type": "error", "error": {"type": "internal_error", "message": "no"}}),
    ],
)
async def test_what_each_instance_says_is_told_as_a_plain_error_of_the_api(fleet, path, parts, body):
    async with fleet(*[stream(*parts)] * 2) as f:
        client = await f.client()
        answer = await client.post(path, REQUEST)
        assert (answer.status, answer.json) == (500, body)
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("path", "aborted", "whole"),
    [
        (RESPONSES, {"object": "response", "status": "cancelled"}, {"object": "response", "status": "completed"}),
        (MESSAGES, {"type": "message", "content": []}, {"type": "message", "stop_reason": "end_turn"}),
    ],
)
async def test_a_plain_answer_that_its_instance_aborted_runs_elsewhere(fleet, path, aborted, whole):
    async def first(conversation: Conversation) -> None:
        await conversation.send_json(aborted)

    async def second(conversation: Conversation) -> None:
        await conversation.send_json(whole)

    script = first_then(first, second)
    async with fleet(script, script) as f:
        client = await f.client()
        assert (await client.post(path, {**REQUEST, "stream": False})).json == whole
        assert f.gateway.metrics.failures[FailureCause.ABORTED] == 1
        f.check_books_are_empty()
