"""All that a request takes is let go with its answer, by closed connections and by idle ones, without the garbage
collector."""

import gc
import gzip
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trustme

from dualmap.router.http.http_request import NO_REQUEST, HttpRequest
from dualmap.router.requests.exchange import Exchange
from tests.router.certs import write_cert
from tests.router.conftest import CHAT, STREAM, Client, Conversation, Fleet, answer_hello, post
from tests.router.http.test_tls import connect, trusting

OURS = ("dualmap.router.http.", "dualmap.router.requests.", "dualmap.router.apis.", "httptools.", "uvloop.", "asyncio.")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> list[object]:
    return [held for held in gc.get_objects() if isinstance(held, HttpRequest | Exchange) and held is not NO_REQUEST]


def living() -> Counter[str]:
    """What there is of the request path's objects, by class."""
    classes = Counter(map(type, gc.get_objects()))
    named = {f"{cls.__module__}.{cls.__qualname__}": count for cls, count in classes.items()}
    return Counter({name: count for name, count in named.items() if name.startswith(OURS)})


async def nothing_stays(fleet: Fleet, use: Callable[[], Awaitable[None]]) -> None:
    """Once used, and once more, which finds what is kept for good there already: of an instance, when it worked."""
    fleet.gateway.connections.work.worked_at("i0")

    async def use_once() -> None:
        await use()
        fleet.forget_clients()
        await fleet.until(lambda: not fleet.gateway.service.clients and not fleet.gateway.driver.exchanges)

    for _ in range(2):
        await use_once()
    before = living()
    for _ in range(3):
        await use_once()
    await fleet.until(lambda: not living() - before)


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


async def never_answer(conversation: Conversation) -> None:
    await conversation.closed_by_gateway()


async def never_end(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send_event('{"choices":[{"delta":{"content":"a"}}]}')
    await conversation.closed_by_gateway()


ENDINGS = {
    "answered": (answer_hello, CHAT, ""),
    "answered and closed": (answer_hello, CHAT, "connection: close\r\n"),
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
    "offered to upgrade": (answer_hello, CHAT, "connection: upgrade\r\nupgrade: h2c\r\n"),
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


@pytest.mark.parametrize("ending", ENDINGS)
async def test_nothing_of_the_request_path_outlives_its_connection(fleet, no_collector, ending):
    script, body, headers = ENDINGS[ending]
    async with fleet(script) as f:

        async def ask() -> None:
            client = await f.client()
            await client.send(post("/v1/chat/completions", body, headers))
            await client.answer()
            client.leave()

        await nothing_stays(f, ask)


async def answered(fleet: Fleet, client: Client) -> None:
    for _ in range(2):
        await client.answer()


async def left(fleet: Fleet, client: Client) -> None:
    await fleet.until(lambda: bool(fleet.gateway.driver.exchanges))


async def half_closed(fleet: Fleet, client: Client) -> None:
    await left(fleet, client)
    client.writer.write_eof()


async def began(fleet: Fleet, client: Client) -> None:
    await client.answer_head()


async def dropped(fleet: Fleet, client: Client) -> None:
    await client.answer()


async def unread(fleet: Fleet, client: Client) -> None:
    await fleet.until(lambda: bool(fleet.gateway.service.clients))


ONE = post("/v1/chat/completions", CHAT)
USES = {
    "two pipelined": (answer_hello, ONE + ONE, answered),
    "one pipelined behind one that is not answered": (never_answer, ONE + ONE, left),
    "left before an answer": (never_answer, ONE, left),
    "left before an answer, half-closed first": (never_answer, ONE, half_closed),
    "left in mid-answer": (never_end, post("/v1/chat/completions", STREAM), began),
    "left in mid-body": (answer_hello, ONE[:-10], unread),
    "left in mid-head": (answer_hello, ONE[:20], unread),
    "not HTTP": (answer_hello, b"\x16\x03\x01 hello\r\n\r\n", dropped),
    "no such path": (answer_hello, b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", dropped),
    "answered here": (answer_hello, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", dropped),
}


@pytest.mark.parametrize("use", USES)
async def test_nothing_stays_however_a_connection_is_used(fleet, no_collector, use):
    script, sent, then = USES[use]
    async with fleet(script) as f:

        async def ask() -> None:
            client = await f.client()
            await client.send(sent)
            await then(f, client)
            client.leave_by_reset()

        await nothing_stays(f, ask)


async def test_nothing_stays_of_connections_to_an_instance_that_come_to_nothing(fleet, no_collector):
    async with fleet() as f:
        f.instances[0].stop()

        async def ask() -> None:
            client = await f.client()
            await client.post("/v1/chat/completions", CHAT)
            client.leave()

        await nothing_stays(f, ask)


@pytest.mark.parametrize("headers", ["", "connection: close\r\n"])
async def test_nothing_stays_of_a_request_over_tls(fleet, no_collector, tmp_path, headers):
    authority = trustme.CA()
    async with fleet(about={"tls": write_cert(tmp_path, authority)}) as f:
        context = trusting(authority)

        async def ask() -> None:
            client = await connect(f.port, context)
            await client.post("/v1/chat/completions", CHAT, headers)
            client.leave()

        await nothing_stays(f, ask)
        f.check_books_are_empty()


async def test_nothing_stays_of_what_is_no_tls(fleet, no_collector, tmp_path):
    async with fleet(about={"tls": write_cert(tmp_path, trustme.CA())}) as f:

        async def ask() -> None:
            client = await f.client()
            await client.send(ONE)
            await client.reader.read()

        await nothing_stays(f, ask)


async def test_nothing_is_held_of_a_client_that_left(fleet, no_collector):
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
