"""The simulated engine's KV events as they are published and read: what is believed is what the engine holds."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dualmap.instances.kv_events.format import EngineCleared, EngineEvent, EngineRemoved, read_batch
from dualmap.instances.kv_events.translation import KvTranslation
from dualmap.instances.simulated.block_content import BlockContent
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.instances.simulated.kv_publisher import as_told
from dualmap.instances.simulated.token_ids import pack_ids
from dualmap.scheduler.blocks import hash_text, hash_tokens, root_hash, token_root
from tests.instances.conftest import SMALL
from tests.instances.kv_events.engine_says import ME, Reader

SIZE = SMALL["block_size"]
RECORDED = Path(__file__).parents[1] / "kv_events" / "offloading.json"


class Told:
    """An engine, and a reader of its events. own: the reader's hash of each block that the engine may hold, by the
    engine's."""

    def __init__(self, **profile: Any) -> None:
        self.engine = Engine(EngineProfile(**SMALL | profile), kv_events=True)
        self.reader = Reader()
        self.own: dict[int, int] = {}
        self.batches: list[list[dict[str, Any]]] = []
        self._translation = KvTranslation(ME, SIZE, True)

    def add(self, request_id: str, ids: list[int], answer: list[int], now: float, adapter: str = "") -> None:
        packed, root = pack_ids([*ids, *answer]), root_hash(adapter.encode()) if adapter else 0
        hashes = hash_text(packed, SIZE * 4, parent=root)
        self.own |= zip(hashes, hash_tokens([*ids, *answer], SIZE, parent=token_root(adapter, "")), strict=False)
        content = BlockContent(hashes, packed, SIZE, adapter or None)
        self.engine.add(EngineRequest(request_id, hashes, len(ids), len(answer), content=content), now)

    def take(self) -> None:
        """What a step has changed comes as a batch over the wire."""
        self.batches.append(as_told(self.engine.take_events()))
        events = read_batch(msgspec.msgpack.encode([0.0, self.batches[-1], 0]))
        self.reader.told(self._translation.apply(events))
        pool = self.engine.pool
        held = {"": pool._cached, "cpu": pool._offloaded}
        assert self.reader.known == {tier: {self.own[h] for h in blocks} for tier, blocks in held.items() if blocks}
        assert self._translation.unknown_parents == 0

    def step(self, now: float) -> float:
        ends_at = self.engine.start_step(now)
        if ends_at is None:
            return self.engine.next_read_s or now
        self.engine.finish_step(ends_at)
        self.take()
        return ends_at


@pytest.mark.parametrize("tier_tokens", [0, 120])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_believed_is_what_the_engine_holds_after_each_step(seed: int, tier_tokens: int) -> None:
    """With preemptions, requests that leave, and resets."""
    rng = random.Random(seed)
    told = Told(offload_tokens=tier_tokens)
    beginnings = [rng.choices(range(9), k=24) for _ in range(3)]
    now, asked = 0.0, iter(range(10**6))
    for _ in range(300):
        match rng.randrange(12):
            case 0 | 1 | 2:
                ids = rng.choice(beginnings)[: rng.randrange(1, 25)] + rng.choices(range(9), k=rng.randrange(1, 12))
                told.add(
                    str(next(asked)), ids, rng.choices(range(9), k=rng.randrange(1, 25)), now, rng.choice(["", "a"])
                )
            case 3 if told.engine._requests:
                told.engine.abort(rng.choice(list(told.engine._requests)))
            case 4:
                told.engine.pool.reset()
            case _:
                now = told.step(now)
    kinds = {event["type"] for batch in told.batches for event in batch}
    assert kinds >= {"BlockStored", "BlockRemoved"}


def test_what_the_pool_stores_in_a_row_is_one_event_and_a_tiers_blocks_have_one_each() -> None:
    told = Told(offload_tokens=64)
    told.add("r", list(range(13)), [0], 0.0)
    told.step(0.0)
    (batch,) = told.batches
    assert [(event["medium"], len(event["block_hashes"])) for event in batch] == [("GPU", 3), *[("CPU", 1)] * 3]
    pool = batch[0]
    assert (pool["token_ids"], pool["parent_block_hash"], pool["extra_keys"]) == (list(range(12)), None, [None] * 3)


@pytest.mark.parametrize("between", [EngineRemoved([12], "GPU", 0), EngineCleared()])
def test_what_is_stored_again_is_not_told_before_it_has_gone(between: EngineEvent) -> None:
    content = BlockContent((11, 12, 13), pack_ids(list(range(12))), SIZE)
    first, *others = (content.stored(index, "GPU") for index in range(3))
    told = as_told([first, between, *others])
    assert [event.get("block_hashes") for event in told] == [[11], getattr(between, "block_hashes", None), [12, 13]]


def recorded_events() -> Iterator[dict[str, Any]]:
    for step in json.loads(RECORDED.read_text())["self-describing"].values():
        yield from step


def fields(event: dict[str, Any]) -> str:
    """What it is of, and the type of each field. A first block has no parent."""
    kinds = {name: kind_of(value) for name, value in event.items() if name != "parent_block_hash"}
    return str((event["type"], event.get("medium"), "parent_block_hash" in event, sorted(kinds.items())))


def kind_of(value: Any) -> str:
    return f"[{kind_of(value[0])}]" if isinstance(value, list) else type(value).__name__


def test_events_have_the_fields_and_types_of_those_recorded_from_vllm() -> None:
    """Of pool and tier."""
    told = Told(offload_tokens=64)
    now = 0.0
    for number in range(8):
        told.add(str(number), [number] * 33, [0] * 4, now)
        while told.engine._requests:
            now = told.step(now)
    ours = {fields(event) for batch in told.batches for event in batch}
    assert ours == {fields(event) for event in recorded_events()}
