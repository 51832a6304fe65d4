"""What an actor hands over of its instance: everything once, and all of the cache when some of it was lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count

import msgspec
import pytest
import zmq

from dualmap.instances.server.metrics import ServerMetrics
from dualmap.instances.spec import KvEventSource
from dualmap.instances.watcher.instance_signals import STEPS_VALID_S, SignalCollector
from dualmap.scheduler.blocks import hash_tokens, token_root
from dualmap.scheduler.events import BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import InstanceSignals, KvEventState, LoadSample
from tests.conftest import WAIT_S

BLOCK_TOKENS = 4


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


class Publisher:
    """A server's KV events: a prompt of token ids is stored by one batch."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._sent = 0

    def await_subscriber(self) -> None:
        assert self._socket.poll(WAIT_S * 1000)
        self._socket.recv()

    def store(self, token_ids: list[int]) -> None:
        stored = {
            "type": "BlockStored",
            "block_hashes": [1000 + self._sent],
            "parent_block_hash": None,
            "token_ids": token_ids,
            "block_size": len(token_ids),
        }
        payload = msgspec.msgpack.encode([0.0, [stored], 0])
        self._socket.send_multipart([b"kv", self._sent.to_bytes(8, "big"), payload])
        self._sent += 1

    def close(self) -> None:
        self._context.destroy(linger=0)


def blocks(token_ids: list[int]) -> tuple[int, ...]:
    return hash_tokens(token_ids, BLOCK_TOKENS, parent=token_root("", ""))


def with_events(block_tokens: int, story: Callable) -> None:
    """Runs the story with a collector that follows a publisher."""
    publisher = Publisher()

    async def whole() -> None:
        collector = SignalCollector("a")
        source = KvEventSource(f"tcp://*:{publisher.port}", None, "kv", block_tokens)
        following = asyncio.create_task(collector.follow_kv_events(source, "127.0.0.1"))
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.to_thread(publisher.await_subscriber)
                await story(collector, publisher)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    try:
        asyncio.run(whole())
    finally:
        publisher.close()


async def states(collector: SignalCollector) -> AsyncIterator[KvEventState]:
    """As the loop goes round."""
    for _ in count():
        await asyncio.sleep(0)
        yield collector.take().kv_events


def test_a_sample_is_handed_over_once_with_its_age():
    clock = Clock()
    collector = SignalCollector("a", clock)
    assert collector.take() == InstanceSignals("a")
    collector.note_metrics(
        ServerMetrics(running=2, waiting=1, kv_used=0.5, preemptions=3, steps=40, prompt_tokens=5, generation_tokens=6)
    )
    clock.now += 0.25
    assert collector.busy_steps == 40
    assert collector.take() == InstanceSignals("a", LoadSample(2, 1, 0.5, preemptions=3, progress=51), 0.25)
    assert collector.take() == InstanceSignals("a")
    clock.now += STEPS_VALID_S
    assert collector.busy_steps is None


def test_a_load_that_is_seen_again_is_told_by_its_age():
    clock = Clock()
    collector = SignalCollector("a", clock)
    collector.note_metrics(ServerMetrics(running=1))
    assert collector.take_again() is None
    assert collector.take().load == LoadSample(1, 0, 0.0)
    assert collector.take_again() < 0.0
    collector.note_metrics(ServerMetrics(running=1))
    clock.now += 0.5
    assert collector.take_again() == 0.5
    assert collector.take_again() < 0.0
    collector.note_metrics(ServerMetrics(running=2))
    assert collector.take_again() is None
    assert collector.take().load == LoadSample(2, 0, 0.0)
    collector.tell_all()
    assert collector.take_again() is None


def test_an_idle_engine_stands_still_without_a_fault():
    collector = SignalCollector("a", Clock())
    collector.note_metrics(ServerMetrics(steps=40))
    assert collector.busy_steps is None


def test_changes_of_the_cache_are_handed_over_once_and_all_of_it_when_they_were_lost():
    async def story(collector: SignalCollector, publisher: Publisher) -> None:
        first, second = list(range(8)), list(range(100, 108))
        publisher.store(first)
        await collector.has_news.wait()
        taken = collector.take()
        assert (taken.cache, taken.cache_from) == ((BlocksStored("a", blocks(first)),), 0)
        assert taken.kv_events.exact
        publisher.store(second)
        await collector.has_news.wait()
        collector.tell_all()
        taken = collector.take()
        assert taken.cache_complete
        assert taken.cache[0] == CacheCleared("a")
        assert {change.blocks for change in taken.cache[1:]} == {blocks(first), blocks(second)}
        again = collector.take()
        assert (again.cache, again.cache_from, again.cache_complete) == ((), 3, False)

    with_events(BLOCK_TOKENS, story)


def test_without_a_tokenizer_blocks_are_not_told_even_when_something_was_lost():
    async def story(collector: SignalCollector, publisher: Publisher) -> None:
        publisher.store(list(range(8)))
        async for state in states(collector):
            if state.batches:
                break
        assert not state.exact
        collector.tell_all()
        assert collector.take().cache == ()

    with_events(0, story)


@pytest.mark.parametrize("endpoint", ["tcp://nowhere", "what"])
def test_an_endpoint_that_cannot_be_used_is_said_and_loses_no_instance(endpoint: str):
    collector = SignalCollector("a")
    asyncio.run(collector.follow_kv_events(KvEventSource(endpoint), "127.0.0.1"))
    assert endpoint in collector.take().kv_events.error
