"""A reader of a server's KV events, for tests of real and of simulated servers."""

import asyncio
import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import zmq

from dualmap.instances.kv_events.stream import KvEventStream, connect_address
from dualmap.scheduler.blocks import hash_tokens, token_root
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from tests.conftest import WAIT_S, await_that

BLOCK_TOKENS = 128


class Follower:
    """Reads a server's events in a thread of its own, and believes them. held: own blocks in its pool, in_tier: in the
    tier behind it; told: the events."""

    def __init__(self, topic: str, endpoint: str, replay_endpoint: str) -> None:
        self.held: set[int] = set()
        self.in_tier: set[int] = set()
        self.told: list[Any] = []
        addresses = (connect_address(bound, "127.0.0.1") for bound in (endpoint, replay_endpoint))
        self.stream = KvEventStream("vllm-0", *addresses, topic, BLOCK_TOKENS, True, self._believe)
        self.status = self.stream.status
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self.stream.run())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def _believe(self, events: Sequence[Any]) -> None:
        for event in events:
            self.told.append(event)
            match event:
                case BlocksStored(tier="cpu"):
                    self.in_tier = self.in_tier | set(event.blocks)
                case BlocksRemoved(tier="cpu"):
                    self.in_tier = self.in_tier - set(event.blocks)
                case BlocksStored():
                    self.held = self.held | set(event.blocks)
                case BlocksRemoved():
                    self.held = self.held - set(event.blocks)
                case CacheCleared():
                    self.held = self.in_tier = set()

    def await_held(self, blocks: Sequence[int]) -> None:
        """A request's last event stores its prompt's last block, so all that was said before is known, too."""
        await_that(lambda: self.held.issuperset(blocks), "its blocks are held")


def replayed(replay_endpoint: str, first: int) -> list[list[bytes]]:
    """Asks for the batches from that number on: the frames of each message that answers, that of the end included."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, int(WAIT_S * 1000)
        dealer.connect(connect_address(replay_endpoint, "127.0.0.1"))
        dealer.send_multipart([b"", first.to_bytes(8, "big")])
        messages = [dealer.recv_multipart()]
        while messages[-1][3]:
            messages.append(dealer.recv_multipart())
        return messages


def prompt(tokens: int, seed: int) -> list[int]:
    """Token ids."""
    return random.Random(seed).choices(range(5, 1000), k=tokens)


def own(ids: Sequence[int], salt: str = "", adapter: str = "") -> tuple[int, ...]:
    """The gateway's blocks of a prompt."""
    return hash_tokens(ids, BLOCK_TOKENS, parent=token_root(adapter, salt))
