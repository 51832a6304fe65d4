"""KV events over real ZMQ sockets, from a publisher that loses, garbles and forgets as told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import uvloop
import zmq
import zmq.asyncio

from dualmap.instances.kv_events import stream as kv_event_stream
from dualmap.instances.kv_events.stream import KvEventStream
from dualmap.scheduler.blocks import hash_tokens, token_root
from dualmap.scheduler.events import BlocksStored, CacheCleared
from tests.conftest import WAIT_S

ME = "vllm-0"
SIZE = 4
CLEARED = (CacheCleared(ME),)
GARBLED = b"\xc1"


def stored(index: int, life: int = 0) -> bytes:
    """The batch that stores a prompt's block of that index; each life of the server has a prompt of its own."""
    event = {
        "type": "BlockStored",
        "block_hashes": [100 + index],
        "parent_block_hash": 99 + index if index else None,
        "token_ids": [life] * SIZE,
        "block_size": SIZE,
    }
    return msgspec.msgpack.encode([life + index / 1000, [event], 0])


def told(blocks: int, life: int = 0) -> tuple[BlocksStored]:
    """What the batch of a prompt's last block says."""
    return (BlocksStored(ME, hash_tokens([life] * SIZE * blocks, SIZE, parent=token_root("", ""))),)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, replays are waited for."""
    monkeypatch.setattr(kv_event_stream, "REPLAY_TIMEOUT_S", WAIT_S)


class Publisher:
    """As a vLLM server's. kept: batches it remembers. at: is called before a replay is answered. silent: none is."""

    def __init__(self, port: int = 0, replay_port: int = 0, *, kept: int = 10_000, topic_frame: bool = True) -> None:
        self._context = zmq.asyncio.Context()
        self._live = self._context.socket(zmq.XPUB)  # which sees who subscribes
        self._router = self._context.socket(zmq.ROUTER)
        for socket, wanted in ((self._live, port), (self._router, replay_port)):
            socket.linger = 0
            socket.bind(f"tcp://127.0.0.1:{wanted or '*'}")
        self.port, self.replay_port = (
            int(socket.last_endpoint.rpartition(b":")[2]) for socket in (self._live, self._router)
        )
        self._kept = kept
        self._topic_frame = topic_frame
        self.buffer: list[tuple[int, bytes]] = []
        self._number = 0
        self.at: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.asked: list[int] = []
        self.silent = False
        self.answered = asyncio.Event()
        self._answering = asyncio.create_task(self._answer())

    async def subscribed(self, what: bytes = b"\x01kv") -> None:
        async with asyncio.timeout(WAIT_S):
            assert await self._live.recv() == what

    async def publish(self, *payloads: bytes) -> None:
        for payload in payloads:
            number = self.lose(payload)
            await self.send(b"kv", number.to_bytes(8, "big"), payload)

    async def send(self, *frames: bytes) -> None:
        await self._live.send_multipart(frames)

    def lose(self, *payloads: bytes) -> int:
        """Their numbers are used up; a replay has them."""
        for payload in payloads:
            self.buffer = [*self.buffer, (self._number, payload)][-self._kept :]
            self._number += 1
        return self._number - 1

    async def _answer(self) -> None:
        topic = [b"kv"] if self._topic_frame else []
        end = [b""] if self._topic_frame else []
        while True:
            client, empty, start = await self._router.recv_multipart()
            assert empty == b""
            self.asked.append(int.from_bytes(start, "big"))
            if self.at is not None:
                await self.at()
            if self.silent:
                continue
            for number, payload in [batch for batch in self.buffer if batch[0] >= self.asked[-1]]:
                await self._router.send_multipart([client, b"", *topic, number.to_bytes(8, "big"), payload])
            await self._router.send_multipart([client, b"", *end, (-1).to_bytes(8, "big", signed=True), b""])
            self.answered.set()

    async def close(self) -> None:
        self._answering.cancel()
        await asyncio.gather(self._answering, return_exceptions=True)
        self._context.destroy()


class Subscriber:
    def __init__(self, publisher: Publisher, replay: bool, identity: bool = True) -> None:
        self._changes: asyncio.Queue[Sequence[Any]] = asyncio.Queue()
        endpoint, replay_endpoint = (f"tcp://127.0.0.1:{port}" for port in (publisher.port, publisher.replay_port))
        self.stream = KvEventStream(
            ME, endpoint, replay_endpoint if replay else None, "kv", SIZE, identity, self._changes.put_nowait
        )
        self.status = self.stream.status
        self.task = asyncio.create_task(self.stream.run())

    async def changes(self) -> Sequence[Any]:
        async with asyncio.timeout(WAIT_S):
            return await self._changes.get()

    def idle(self) -> bool:
        return self._changes.empty()


@asynccontextmanager
async def stream(
    publisher: Publisher | None = None, *, replay: bool = True, identity: bool = True
) -> AsyncIterator[tuple[Publisher, Subscriber]]:
    """A subscriber that has just found its publisher, and has nothing unread at the end."""
    publisher = publisher or Publisher()
    subscriber = Subscriber(publisher, replay, identity)
    try:
        async with asyncio.timeout(WAIT_S):
            await publisher.subscribed()
            if replay:
                await publisher.answered.wait()
        yield publisher, subscriber
        assert subscriber.idle()
    finally:
        subscriber.task.cancel()
        with suppress(asyncio.CancelledError):
            await subscriber.task
        await publisher.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("replay", [True, False])
def test_batches_in_order_come_out_in_order(loop, replay):
    async def test() -> None:
        async with stream(replay=replay) as (publisher, subscriber):
            await publisher.publish(*map(stored, range(3)))
            assert [await subscriber.changes() for _ in range(3)] == [told(1), told(2), told(3)]
            status = subscriber.status
            assert (status.batches, status.gaps, status.resets, status.replayed) == (3, 0, 0, 0)
            assert status.last_batch_at is not None
            assert subscriber.stream.held() == CLEARED + told(3)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


@pytest.mark.parametrize("topic_frame", [True, False])
def test_a_gap_is_filled_by_a_replay(topic_frame):
    async def test() -> None:
        async with stream(Publisher(topic_frame=topic_frame)) as (publisher, subscriber):
            await publisher.publish(stored(0))
            assert await subscriber.changes() == told(1)
            publisher.lose(stored(1), stored(2))
            await publisher.publish(stored(3), stored(4))
            assert [await subscriber.changes() for _ in range(4)] == [told(2), told(3), told(4), told(5)]
            await publisher.publish(stored(5))
            assert await subscriber.changes() == told(6)
            status = subscriber.status
            assert (status.batches, status.gaps, status.resets) == (6, 1, 0), "each is applied once"
            assert publisher.asked == [0, 1]

    run(test())


def test_a_replay_of_which_messages_were_dropped_is_asked_for_again():
    async def test() -> None:
        publisher = Publisher()
        publisher.lose(*map(stored, range(7)))
        async with stream(publisher) as (publisher, subscriber):
            assert [await subscriber.changes() for _ in range(7)] == [told(n + 1) for n in range(7)]
            publisher.lose(*map(stored, range(7, 11)))
            publisher.at = drop_the_second_message(publisher)
            await publisher.publish(stored(11))
            assert [await subscriber.changes() for _ in range(5)] == [told(n + 1) for n in range(7, 12)]
            assert subscriber.status.resets == 0
            assert publisher.asked == [0, 7, 8]

    def drop_the_second_message(publisher: Publisher) -> Callable[[], Coroutine[Any, Any, None]]:
        async def drop() -> None:
            whole = publisher.buffer
            if len(publisher.asked) == 2:
                publisher.buffer = [batch for batch in whole if batch[0] != 8]
            else:
                publisher.buffer = sorted({(8, stored(8)), *whole})

        return drop

    run(test())


@pytest.mark.parametrize("why", ["no replay endpoint", "no answer", "forgotten"])
def test_a_gap_that_cannot_be_filled_throws_away_what_was_known(why, monkeypatch):
    async def test() -> None:
        publisher = Publisher(kept=1 if why == "forgotten" else 100)
        async with stream(publisher, replay=why != "no replay endpoint") as (_, subscriber):
            await publisher.publish(stored(0), stored(1))
            assert [await subscriber.changes(), await subscriber.changes()] == [told(1), told(2)]
            if why == "no answer":
                publisher.silent = True
                monkeypatch.setattr(kv_event_stream, "REPLAY_TIMEOUT_S", 0.05)
            publisher.lose(stored(2), stored(3))
            await publisher.publish(stored(0))
            assert [await subscriber.changes(), await subscriber.changes()] == [CLEARED, told(1)]
            assert subscriber.stream.held() == CLEARED + told(1)
            assert (subscriber.status.gaps, subscriber.status.resets) == (1, 1)

    run(test())


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("replay", [True, False])
def test_a_server_that_began_anew_is_seen_by_its_numbers(lost, replay):
    async def test() -> None:
        first = Publisher()
        async with stream(first, replay=replay) as (_, subscriber):
            await first.publish(*map(stored, range(5)))
            assert [await subscriber.changes() for _ in range(5)] == [told(n + 1) for n in range(5)]
            await first.close()
            second = Publisher(first.port, first.replay_port)
            try:
                await second.subscribed()
                second.lose(*(stored(n, life=1) for n in range(lost)))
                await second.publish(*(stored(n, life=1) for n in range(lost, 4)))
                assert await subscriber.changes() == CLEARED
                if replay or not lost:
                    assert [await subscriber.changes() for _ in range(4)] == [told(n + 1, life=1) for n in range(4)]
                    assert subscriber.status.unknown_parents == 0
                else:  # its first batches are lost for good
                    await second.publish(stored(0, life=1))
                    assert await subscriber.changes() == told(1, life=1)
                    assert subscriber.status.unknown_parents == 2
                assert (subscriber.status.gaps, subscriber.status.resets) == (0, 1)
            finally:
                await second.close()

    run(test())


def test_a_server_that_began_anew_is_not_taken_for_a_repetition_of_what_was_replayed():
    async def test() -> None:
        first = Publisher()
        first.lose(*map(stored, range(5)))
        async with stream(first) as (_, subscriber):
            assert [await subscriber.changes() for _ in range(5)] == [told(n + 1) for n in range(5)]
            await first.close()
            second = Publisher(first.port, first.replay_port)
            try:
                await second.subscribed()
                await second.publish(stored(0, life=1), stored(1, life=1))
                assert [await subscriber.changes() for _ in range(3)] == [CLEARED, told(1, life=1), told(2, life=1)]
            finally:
                await second.close()

    run(test())


@pytest.mark.parametrize("kept", [100, 3])
def test_one_who_comes_late_learns_what_is_held_as_far_as_the_server_remembers(kept):
    async def test() -> None:
        publisher = Publisher(kept=kept)
        publisher.lose(*map(stored, range(5)), stored(0, life=1), stored(1, life=1))
        async with stream(publisher) as (publisher, subscriber):
            await publisher.publish(stored(2, life=1))
            expected = [told(n + 1) for n in range(5)] if kept == 100 else []
            expected += [told(n + 1, life=1) for n in range(3)] if kept == 3 else []
            assert [await subscriber.changes() for _ in expected] == expected
            assert (subscriber.status.gaps, subscriber.status.resets) == (0, 0)

    run(test())


def test_what_comes_live_while_it_is_replayed_is_applied_once():
    async def test() -> None:
        publisher = Publisher()
        publisher.lose(stored(0))

        async def publish_more() -> None:
            if publisher.asked == [0]:
                await publisher.subscribed()
                await publisher.publish(stored(1), stored(2))

        publisher.at = publish_more
        subscriber = Subscriber(publisher, True)
        try:
            assert [await subscriber.changes() for _ in range(3)] == [told(1), told(2), told(3)]
            await publisher.publish(stored(3))
            assert await subscriber.changes() == told(4)
            assert (subscriber.status.batches, subscriber.status.replayed) == (4, 3)
            assert subscriber.status.resets == 0
        finally:
            subscriber.task.cancel()
            await asyncio.gather(subscriber.task, return_exceptions=True)
            await publisher.close()

    run(test())


@pytest.mark.parametrize("replayed", [False, True])
def test_a_batch_that_cannot_be_read_throws_away_what_was_known(replayed):
    async def test() -> None:
        publisher = Publisher()
        if replayed:
            publisher.lose(stored(0), GARBLED, stored(0, life=1))
        async with stream(publisher) as (_, subscriber):
            if not replayed:
                await publisher.publish(stored(0), GARBLED, stored(0, life=1))
            assert [await subscriber.changes() for _ in range(3)] == [told(1), CLEARED, told(1, life=1)]
            assert (subscriber.status.gaps, subscriber.status.resets, subscriber.status.batches) == (0, 1, 3)
            assert "msgpack" in subscriber.status.error

    run(test())


def test_a_message_without_a_number_is_a_gap_to_be_filled():
    async def test() -> None:
        async with stream() as (publisher, subscriber):
            await publisher.publish(stored(0))
            await publisher.send(b"kv", b"?", stored(1))
            publisher.lose(stored(1))
            await publisher.publish(stored(2))
            assert [await subscriber.changes() for _ in range(3)] == [told(1), told(2), told(3)]
            assert subscriber.status.resets == 0
            assert "sequence number of 1 bytes" in subscriber.status.error

    run(test())


def test_without_identity_only_clears_come_out():
    async def test() -> None:
        async with stream(identity=False) as (publisher, subscriber):
            await publisher.publish(stored(0), msgspec.msgpack.encode([1.5, [["AllBlocksCleared"]]]))
            assert await subscriber.changes() == CLEARED
            assert subscriber.status.batches == 2
            assert subscriber.stream.held() == CLEARED

    run(test())


@pytest.mark.parametrize("while_it", ["listens", "waits for a replay"])
def test_when_it_is_cancelled_its_sockets_are_closed(while_it):
    async def test() -> None:
        publisher = Publisher()
        publisher.silent = while_it == "waits for a replay"
        asked = asyncio.Event()

        async def note() -> None:
            asked.set()

        publisher.at = note
        subscriber = Subscriber(publisher, True)
        try:
            await publisher.subscribed()
            await asked.wait()
            subscriber.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await subscriber.task
            await publisher.subscribed(b"\x00kv")
        finally:
            await publisher.close()

    run(test())
