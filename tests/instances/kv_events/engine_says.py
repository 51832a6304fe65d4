"""Events of an engine, made of prompts, and a reader that believes what it is told of them."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from dualmap.instances.kv_events.format import EngineRemoved, EngineStored
from dualmap.scheduler.blocks import hash_tokens, token_root
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared

ME = "vllm-0"
TEXT = token_root("", "")
CLEARED = CacheCleared(ME)


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(1 << 32), k=tokens)


def engine_hashes(ids: Sequence[int], size: int, scope: Any = None) -> list[int]:
    """As an engine's: one for each full block and all before it."""
    return [hash((scope, *ids[:end])) for end in range(size, len(ids) + 1, size)]


def stored(ids: Sequence[int], size: int, start: int = 0, end: int | None = None, **fields: Any) -> EngineStored:
    """The engine's blocks of the prompt from the one at `start` on, counted in blocks."""
    hashes = engine_hashes(ids, size, fields.pop("scope", None))
    end = len(hashes) if end is None else end
    parent = hashes[start - 1] if start else None
    return EngineStored(hashes[start:end], parent, list(ids[start * size : end * size]), size, **fields)


def removed(ids: Sequence[int], size: int, *blocks: int, **fields: Any) -> EngineRemoved:
    hashes = engine_hashes(ids, size, fields.pop("scope", None))
    return EngineRemoved([hashes[block] for block in blocks], **fields)


def own(ids: Sequence[int], block_tokens: int, parent: int = TEXT) -> tuple[int, ...]:
    return hash_tokens(ids, block_tokens, parent=parent)


class Reader:
    """Believes what it is told. tiers: by name, the pool's is empty; held: what is anywhere."""

    def __init__(self, held: Iterable[int] = ()) -> None:
        self.tiers: dict[str, set[int]] = {"": set(held)}

    @property
    def held(self) -> set[int]:
        return set().union(*self.tiers.values())

    @property
    def known(self) -> dict[str, set[int]]:
        return {tier: set(blocks) for tier, blocks in self.tiers.items() if blocks}

    def told(self, events: Sequence[Any]) -> None:
        for event in events:
            assert event.instance_id == ME
            match event:
                case BlocksStored():
                    self.tiers.setdefault(event.tier, set()).update(event.blocks)
                case BlocksRemoved():
                    assert self.tiers[event.tier].issuperset(event.blocks), "told of what was not held"
                    self.tiers[event.tier].difference_update(event.blocks)
                case CacheCleared():
                    self.tiers.clear()
