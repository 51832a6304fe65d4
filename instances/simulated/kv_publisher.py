"""KV events over ZMQ, as vLLM 0.32 publishes and replays them (vllm/distributed/kv_events.py, `ZmqEventPublisher`)."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from dualmap.instances.kv_events.format import (
    END_OF_REPLAY,
    SEQUENCE_BYTES,
    EngineCleared,
    EngineEvent,
    EngineRemoved,
    EngineStored,
)
from dualmap.instances.simulated.block_pool import GPU
from dualmap.instances.simulated.kv_events_config import EndpointError, KvEventsConfig, rank_endpoint

KIND = "full_attention"  # of the cache's only group
REPLAYED_AT_ONCE = 100  # batches, before others may run: the engine's steps do not wait for replays


class KvPublisher:
    """Of one engine. rank: among those of its server."""

    def __init__(self, config: KvEventsConfig, rank: int = 0) -> None:
        """Within a running loop. Raises EndpointError."""
        self._topic = config.topic.encode()
        self._rank = rank
        self._number = 0  # of the batch that is next
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)  # numbers and payloads
        context = zmq.asyncio.Context.instance()
        self._live: zmq.Socket[bytes] = zmq.Socket(context, zmq.PUB)
        self._replay: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        self._answering: asyncio.Task[None] | None = None
        self._live.set_hwm(config.hwm)
        try:
            _open(self._live, config.endpoint, rank, binds=_is_bound(config.endpoint))
            if config.replay_endpoint is not None:
                _open(self._replay, config.replay_endpoint, rank, binds=True)
                self._answering = asyncio.get_running_loop().create_task(self._answer())
        except EndpointError:
            self.close()
            raise

    def publish(self, events: Iterable[EngineEvent]) -> None:
        """What has changed in a step, in one batch; nothing, if nothing has."""
        told = as_told(events)
        if not told:
            return
        payload = msgspec.msgpack.encode([time.time(), told, self._rank])
        self._live.send_multipart(self._frames(self._number, payload))  # never waits: who is too slow loses messages
        self._kept.append((self._number, payload))
        self._number += 1

    def close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
        self._live.close(linger=0)
        self._replay.close(linger=0)

    async def _answer(self) -> None:
        while True:
            match await self._replay.recv_multipart():
                case [reader, _, first]:
                    await self._send_from(reader, int.from_bytes(first, "big"))

    async def _send_from(self, reader: bytes, first: int) -> None:
        """All that is kept, from the batch of that number on."""
        due = [batch for batch in self._kept if batch[0] >= first]
        for sent, (number, payload) in enumerate(due, start=1):
            await self._replay.send_multipart((reader, b"", *self._frames(number, payload)))
            if sent % REPLAYED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._replay.send_multipart((reader, b"", b"", _as_bytes(END_OF_REPLAY), b""))

    def _frames(self, number: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
        return self._topic, _as_bytes(number), payload


def as_told(events: Iterable[EngineEvent]) -> list[dict[str, Any]]:
    """As vLLM writes them. What the pool stores of a prompt in a row is one event; a tier's blocks have one each."""
    told: list[dict[str, Any]] = []
    run: dict[str, Any] | None = None  # the pool's last event, if it stores
    for event in events:
        match event:
            case EngineStored() if event.medium == GPU and run and run["block_hashes"][-1] == event.parent_block_hash:
                for name in ("block_hashes", "token_ids", "extra_keys"):
                    run[name] += getattr(event, name)
            case EngineStored():
                told.append(_stored(event))
                run = told[-1] if event.medium == GPU else run
            case EngineRemoved():
                told.append({"type": "BlockRemoved", "block_hashes": event.block_hashes, **_place(event)})
                run = None if event.medium == GPU else run
            case EngineCleared():
                told.append({"type": "AllBlocksCleared"})
                run = None
    return told


def _stored(event: EngineStored) -> dict[str, Any]:
    """vLLM says of a tier's blocks no extra keys."""
    return {
        "type": "BlockStored",
        "block_hashes": event.block_hashes,
        "parent_block_hash": event.parent_block_hash,
        "token_ids": event.token_ids,
        "block_size": event.block_size,
        "lora_id": event.lora_id,
        "lora_name": event.lora_name,
        **({"extra_keys": event.extra_keys} if event.medium == GPU else {}),
        "kv_cache_spec_kind": KIND,
        **_place(event),
    }


def _place(event: EngineStored | EngineRemoved) -> dict[str, Any]:
    return {"medium": event.medium, "group_idx": event.group_idx}


def _as_bytes(number: int) -> bytes:
    return number.to_bytes(SEQUENCE_BYTES, "big")


def _is_bound(endpoint: str) -> bool:
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


def _open(socket: "zmq.Socket[Any]", endpoint: str, rank: int, *, binds: bool) -> None:
    """Raises EndpointError."""
    address = rank_endpoint(endpoint, rank)
    socket.ipv6 = "[" in address
    try:
        (socket.bind if binds else socket.connect)(address)
    except zmq.ZMQError as error:
        raise EndpointError(f"{address}: {zmq.strerror(error.errno or 0)}") from None
