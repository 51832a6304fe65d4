"""What an instance in virtual time says of its cache: the engine's events in the core's words. Its blocks are the
gateway's."""

from collections import Counter
from collections.abc import Iterable

from dualmap.instances.kv_events.format import EngineEvent, EngineRemoved, EngineStored
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import CacheEvent


class CacheTeller:
    """tiers: whether it says in which tier a block is. If not, a block is held while any copy is."""

    def __init__(self, instance_id: str, *, tiers: bool) -> None:
        self._instance_id = instance_id
        self._tiers = tiers
        self._copies: Counter[int] = Counter()

    def told(self, events: Iterable[EngineEvent]) -> list[CacheEvent]:
        out: list[CacheEvent] = []
        for event in events:
            match event:
                case EngineStored() if self._tiers or self._stores(event):
                    out.append(BlocksStored(self._instance_id, tuple(event.block_hashes), self._tier(event)))
                case EngineRemoved() if self._tiers or self._removes(event):
                    out.append(BlocksRemoved(self._instance_id, tuple(event.block_hashes), self._tier(event)))
                case EngineStored() | EngineRemoved():
                    pass
                case _:
                    self._copies.clear()
                    out.append(CacheCleared(self._instance_id))
        return out

    def _tier(self, event: EngineStored | EngineRemoved) -> str:
        return event.tier if self._tiers else ""

    def _stores(self, event: EngineStored) -> bool:
        (block,) = event.block_hashes  # the engine tells each by itself
        self._copies[block] += 1
        return self._copies[block] == 1

    def _removes(self, event: EngineRemoved) -> bool:
        (block,) = event.block_hashes
        self._copies[block] -= 1
        return not self._copies[block]
