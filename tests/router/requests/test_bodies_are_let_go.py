"""A request's body is let go with its answer, by closed connections and by idle ones, without the garbage collector."""

import gc
import gzip
from collections.abc import Iterator

import pytest

from dualmap.router.http.http_request import NO_REQUEST, HttpRequest
from dualmap.router.requests.exchange import Exchange
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello, post


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> list[object]:
    return [held for held in gc.get_objects() if isinstance(held, HttpRequest | Exchange) and held is not NO_REQUEST]


async def stream(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
    await conversation.end_stream()


async def reset(conversation: Conversation) -> None:
    conversation.reset()


async def break_off(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
    conversation.reset()


async def refuse(conversation: Conversation) -> None:
    await conversation.send_json({"error": {}}, "404 Not Found")


ENDINGS = {
    "answered": (answer_hello, CHAT, ""),
    "streamed": (stream, STREAM, ""),
    "refused by the instance": (refuse, CHAT, ""),
    "failed before an answer": (reset, CHAT, ""),
    "failed in mid-answer": (break_off, STREAM, ""),
    "refused here": (answer_hello, CHAT, "x-dualmap-timeout-ms: soon\r\n"),
    "unpacked": (
        answer_hello,
        gzip.compress(b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'),
        "content-encoding: gzip\r\n",
    ),
    "not unpacked": (answer_hello, b"nonsense", "content-encoding: gzip\r\n"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_nothing_is_held_of_a_request_that_is_over(fleet, no_collector, ending):
    script, body, headers = ENDINGS[ending]
    async with fleet(script) as f:
        for _ in range(2):
            client = await f.client()
            await client.send(post("/v1/chat/completions", body, headers))
            await client.answer()
            await f.until(lambda: not held())  # while the connection is idle, or ends
            client.leave()
            await f.until(lambda: not f.gateway.service.clients)
            assert not held()
        f.check_books_are_empty()


async def test_nothing_is_held_of_a_client_that_left(fleet, no_collector):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        for half_closes in (False, True):
            client = await f.client()
            await client.send(post("/v1/chat/completions", CHAT))
            await f.until(lambda: bool(f.gateway.driver.exchanges))
            if half_closes:
                client.writer.write_eof()
            client.leave_by_reset()
            await f.until(lambda: not f.gateway.service.clients)
            await f.until(lambda: not held())
