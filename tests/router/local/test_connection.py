"""Calls between processes over a socket: what comes back, and what a caller hears where nothing does."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dualmap.router.local import connection as module
from dualmap.router.local import frames
from dualmap.router.local.connection import Connection
from dualmap.router.local.frames import GREETING
from dualmap.router.local.serve import Callers
from dualmap.router.reach import packed
from dualmap.router.reach.host import MAKE, Host
from dualmap.router.reach.packed import packed_call
from dualmap.router.reach.reach import CallError, NoActorError
from tests.conftest import WAIT_S


class Actor:
    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.begun: list[object] = []

    async def echo(self, value: object) -> object:
        return value

    async def refuse(self) -> None:
        raise KeyError("no such thing")

    async def hold(self, value: object) -> object:
        self.begun.append(value)
        await self.release.wait()
        return value

    async def lock(self) -> object:
        return threading.Lock()


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "socket")


@asynccontextmanager
async def hosted(path: str) -> AsyncIterator[tuple[Connection, Actor]]:
    """An actor, and a connection to it."""
    actor = Actor()
    connection = Connection(path)
    async with asyncio.timeout(WAIT_S):
        async with await asyncio.start_unix_server(Callers(Host("other", actors={"a": actor}).answer).serve, path):
            yield connection, actor
            connection.close()


@asynccontextmanager
async def answering(path: str, serve) -> AsyncIterator[Connection]:
    connection = Connection(path)
    async with asyncio.timeout(WAIT_S):
        async with await asyncio.start_unix_server(serve, path):
            yield connection
            connection.close()


@pytest.mark.parametrize("value", [None, (1, "a"), b"x" * 5_000_000], ids=["nothing", "a tuple", "5 MB"])
async def test_what_is_sent_comes_back(path, value):
    async with hosted(path) as (connection, _):
        assert await connection.call("a", "echo", value) == value


async def test_what_a_method_raises_is_the_cause(path):
    async with hosted(path) as (connection, _):
        with pytest.raises(CallError, match="no such thing") as raised:
            await connection.call("a", "refuse")
        assert isinstance(raised.value.cause, KeyError)


async def test_an_actor_that_is_not_there_is_named(path):
    async with hosted(path) as (connection, _):
        with pytest.raises(NoActorError, match="other has no actor 'b'"):
            await connection.call("b", "echo", 1)


async def test_an_answer_that_cannot_be_sent_is_told(path):
    async with hosted(path) as (connection, _):
        with pytest.raises(CallError, match="cannot be sent to another process"):
            await connection.call("a", "lock")
        assert await connection.call("a", "echo", 1) == 1


async def test_an_argument_that_cannot_be_sent_is_the_callers_fault(path):
    async with hosted(path) as (connection, _):
        with pytest.raises(CallError, match="echo: cannot be sent to another process"):
            await connection.call("a", "echo", threading.Lock())


async def test_a_value_that_is_too_large_is_refused_and_the_next_call_goes_on(path, monkeypatch):
    async with hosted(path) as (connection, _):
        monkeypatch.setattr(packed, "MOST_BYTES", 1000)
        with pytest.raises(CallError, match="more than the 1000 that another process takes at once"):
            await connection.call("a", "echo", b"x" * 2000)
        assert await connection.call("a", "echo", 1) == 1


async def test_a_late_answer_goes_to_nobody_else(path):
    async with hosted(path) as (connection, actor):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.call("a", "hold", "late")
        later = asyncio.create_task(connection.call("a", "echo", "now"))
        actor.release.set()
        assert await later == "now"
        assert await connection.call("a", "hold", "again") == "again"


async def test_calls_run_beside_each_other(path):
    async with hosted(path) as (connection, actor):
        held = [asyncio.create_task(connection.call("a", "hold", number)) for number in range(3)]
        assert await connection.call("a", "echo", 1) == 1
        actor.release.set()
        assert await asyncio.gather(*held) == [0, 1, 2]


async def test_a_program_of_another_version_is_refused_in_words(path):
    async def serve(reader, writer):
        writer.write(b"dualmap 99.0, protocol 7\n")
        await reader.read()
        writer.close()

    async with answering(path, serve) as connection:
        with pytest.raises(CallError, match=r"is of dualmap 99\.0, protocol 7.*start `dualmap up` again"):
            await connection.call("a", "echo", 1)


async def test_a_caller_of_another_version_is_heard_no_further(path):
    async with hosted(path) as (connection, _):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"dualmap 99.0, protocol 7\n" + frames.frame(1, packed_call("a", "echo", (1,))))
        assert await reader.read() == f"{GREETING}\n".encode()
        writer.close()
        assert await connection.call("a", "echo", 1) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00" * 5,
        b"\xff" * 13,  # a frame of 4 GiB
        frames._HEAD.pack(3, 1, False) + b"abc",  # no pickle
    ],
    ids=["nothing", "half a head", "too large", "no pickle"],
)
async def test_nonsense_harms_no_other_caller(path, sent):
    async with hosted(path) as (connection, _):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(f"{GREETING}\n".encode() + sent)
        writer.close()
        assert await connection.call("a", "echo", 1) == 1


async def test_a_call_under_way_fails_when_the_process_ends_and_the_next_one_connects_again(path):
    ended = asyncio.Event()

    async def serve(reader, writer):
        await frames.greet(reader, writer)
        asked = await frames.read_frame(reader)
        if ended.is_set():
            writer.write(frames.frame(asked.number, packed.packed("back")))
        else:
            ended.set()
            writer.close()

    async with answering(path, serve) as connection:
        with pytest.raises(CallError, match="the process has ended") as raised:
            await connection.call("a", "echo", 1)
        assert raised.value.cause is None
        assert await connection.call("a", "echo", 1) == "back"


async def test_to_a_process_that_stands_still_no_more_is_sent_than_it_may_hold(path, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNSENT_BYTES", 1_000_000)
    still = asyncio.Event()

    async def serve(reader, writer):
        await frames.greet(reader, writer)
        await still.wait()
        writer.close()

    async with answering(path, serve) as connection:
        waiting = []
        refused = None
        while refused is None:
            call = asyncio.create_task(connection.call("a", "echo", b"x" * 500_000))
            done, _ = await asyncio.wait([call], timeout=0.01)
            if done:
                refused = call.exception()
            else:
                waiting.append(call)
        assert "takes nothing any more" in str(refused)
        still.set()
        for call in waiting:
            with pytest.raises(CallError):
                await call


async def test_where_nobody_listens_is_not_asked_all_the_time(path):
    connection = Connection(path)
    with pytest.raises(CallError, match="No such file or directory"):
        await connection.call("a", "echo", 1)
    with pytest.raises(CallError, match="nobody answers"):
        await connection.call("a", "echo", 1)


async def test_an_actor_is_made_once_however_often_it_is_asked_for(path):
    host = Host("other")
    async with answering(path, Callers(host.answer).serve) as connection:
        made = ("dualmap.router.fleet.rebalancer:Rebalancer", "r", ())
        await connection.call("", MAKE, *made)
        first = host.actors["r"]
        await connection.call("", MAKE, *made)
        assert host.actors["r"] is first
