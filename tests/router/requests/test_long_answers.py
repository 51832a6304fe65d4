"""Plain answers that are longer than what is held in memory: they run elsewhere until they are whole, whatever their
size, and take no more of the disk than they may."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from dualmap.router.requests import answer_spool
from dualmap.router.requests.answer_plain import MAX_HELD_BYTES
from dualmap.router.requests.answer_spool import PIECE_BYTES
from dualmap.router.requests.phase import Phase
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import CHAT, TEST_LIMITS, Answer, Client, Conversation, Fleet, post

PATH = "/v1/chat/completions"
LONG = 4 * MAX_HELD_BYTES
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
Script = Callable[[Conversation], Awaitable[None]]


def answer_body(reason: str = "stop") -> bytes:
    choice = {"message": {"content": "x" * LONG}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": USAGE}).encode()


def long_answer(
    *, reason: str = "stop", known: bool = True, end: int | None = None, waits: Script | None = None
) -> Script:
    """known: how long it is, when it begins. end: after so many bytes the connection is reset; waits: before that, and
    before the end."""
    body = answer_body(reason)

    async def script(conversation: Conversation) -> None:
        framing = b"content-length: %d" % len(body) if known else b"transfer-encoding: chunked"
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b\r\n\r\n" % framing)
        for start in range(0, LONG if end is None else end, 65536):
            piece = body[start : start + 65536]
            await conversation.send(piece if known else b"%x\r\n%b\r\n" % (len(piece), piece))
        if waits is not None:
            await waits(conversation)
        if end is not None:
            conversation.reset()
            return
        piece = body[LONG:]
        await conversation.send(piece if known else b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece))

    return script


def one_after_the_other(*scripts: Script) -> Script:
    """Whichever instance is asked first."""
    left = list(scripts)

    async def script(conversation: Conversation) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(conversation)

    return script


async def ask(f: Fleet) -> tuple[Client, "asyncio.Task[Answer]"]:
    client = await f.client(limit=2 * LONG)
    return client, asyncio.create_task(client.post(PATH, CHAT))


@pytest.mark.parametrize("known", [True, False], ids=["of a known length", "chunked"])
@pytest.mark.parametrize("failing", ["cut off", "aborted"])
async def test_a_long_plain_answer_that_fails_runs_elsewhere(fleet, failing, known):
    first = (
        long_answer(known=known, end=LONG // 2) if failing == "cut off" else long_answer(known=known, reason="abort")
    )
    script = one_after_the_other(first, long_answer(known=known))
    async with fleet(script, script) as f:
        _, answering = await ask(f)
        answer = await answering
        assert (answer.status, answer.body) == (200, answer_body())
        assert sorted(len(instance.received) for instance in f.instances) == [1, 1]
        cause = FailureCause.BROKEN if failing == "cut off" else FailureCause.ABORTED
        assert f.gateway.metrics.failures[cause] == 1
        assert f.gateway.metrics.cached_prompt_tokens == 8
        f.check_books_are_empty()
        assert f.gateway.driver.spool_room.used_bytes == 0


async def test_a_slow_client_gets_all_of_it_and_the_gateway_keeps_little_in_memory(fleet):
    async with fleet(long_answer()) as f:
        client = await f.client()
        await client.send(post(PATH, CHAT) + post(PATH, CHAT))
        await f.until(lambda: f.gateway.metrics.outcomes["ok"] == 1)
        (connection,) = f.gateway.service.clients
        assert f.gateway.driver.spool_room.used_bytes == len(answer_body())
        f.check_books_are_empty()  # the instance is free for others while the client reads
        sizes = []
        head = await client.answer_head()
        body = b""
        while left := int(head.headers["content-length"]) - len(body):
            sizes.append(connection.transport.get_write_buffer_size())
            body += await client.reader.read(min(left, 100_000))
        assert body == answer_body()
        assert max(sizes) <= 2 * PIECE_BYTES
        assert (await client.answer()).status == 200  # the connection goes on with its next request
        assert f.gateway.driver.spool_room.used_bytes == 0


async def test_a_client_that_leaves_gives_the_room_back(fleet):
    async with fleet(long_answer()) as f:
        client = await f.client()
        await client.send(post(PATH, CHAT))
        await f.until(lambda: f.gateway.metrics.outcomes["ok"] == 1)
        client.leave_by_reset()
        await f.until(lambda: not f.gateway.driver.spool_room.used_bytes)


async def test_a_client_that_leaves_before_the_answer_is_whole_gives_the_room_back(fleet):
    async with fleet(long_answer(waits=Conversation.closed_by_gateway)) as f:
        client, answering = await ask(f)
        room = f.gateway.driver.spool_room
        await f.until(lambda: room.used_bytes > MAX_HELD_BYTES)
        client.leave_by_reset()
        await f.until(lambda: not room.used_bytes)
        f.check_books_are_empty()
        answering.cancel()


@pytest.mark.parametrize("room", [0, LONG // 2])
@pytest.mark.parametrize("known", [True, False], ids=["of a known length", "chunked"])
async def test_where_there_is_no_room_an_answer_is_relayed_as_it_comes(fleet, known, room):
    go_on = asyncio.Event()

    async def wait(conversation: Conversation) -> None:
        await go_on.wait()

    async with fleet(long_answer(known=known, waits=wait), max_spooled_bytes=room) as f:
        _, answering = await ask(f)
        await f.until(lambda: any(e.phase is Phase.ANSWERING for e in f.gateway.driver.exchanges.values()))
        go_on.set()
        assert (await answering).body == answer_body()
        assert f.gateway.driver.spool_room.used_bytes == 0
        f.check_books_are_empty()


async def test_room_for_all_of_an_answer_is_taken_at_once_so_that_it_is_never_read_back_for_want_of_it(fleet):
    go_on = asyncio.Event()
    waiting = []

    async def wait(conversation: Conversation) -> None:
        waiting.append(conversation)
        await go_on.wait()

    instance = one_after_the_other(long_answer(end=LONG // 2, waits=wait), long_answer())
    async with fleet(instance, instance, max_spooled_bytes=LONG + 4096) as f:
        _, first = await ask(f)
        room = f.gateway.driver.spool_room
        await f.until(lambda: bool(waiting) and room.used_bytes > 0)
        assert room.used_bytes == len(answer_body())
        _, second = await ask(f)
        assert (await second).body == answer_body(), "relayed as it came"
        go_on.set()
        assert (await first).body == answer_body(), "from another instance"
        assert room.used_bytes == 0
        f.check_books_are_empty()


async def test_where_files_cannot_be_made_an_answer_is_relayed_as_it_comes(fleet, monkeypatch):
    def no_file(**_: object) -> None:
        raise OSError("No usable temporary directory found")

    monkeypatch.setattr(answer_spool, "TemporaryFile", no_file)
    async with fleet(long_answer()) as f:
        _, answering = await ask(f)
        assert (await answering).body == answer_body()
        assert f.gateway.driver.spool_room.used_bytes == 0


async def test_room_that_is_set_anew_holds_for_answers_that_come(fleet):
    async with fleet() as f:
        f.gateway.reconfigure({}, replace(TEST_LIMITS, max_spooled_bytes=7))
        room = f.gateway.driver.spool_room
        assert (room.has(7), room.has(8)) == (True, False)
