"""What a vLLM server says of its KV cache, in the core's words.

The engine hashes its blocks with an algorithm, a seed and a size of its own. None of these need be known: what it
stores comes with the token ids and the parent's hash, from which the gateway's own hashes are computed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from dualmap.instances.kv_events.format import EngineEvent, EngineRemoved, EngineStored
from dualmap.instances.kv_events.places import OwnBlock, Place
from dualmap.scheduler.blocks import token_root
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import CacheEvent

GROUPS = (None, 0)  # of a hybrid model's cache groups one is followed: a prefix is cached when all of them have it
# Of a tier that never says what it drops (LMCache, vLLM's files and object stores), so many engine blocks are believed
# to be there: 100 MB.
MOST_NEVER_DROPPED = 200_000


class KvTranslation:
    """The blocks of one server. An own block is held while an engine block in which it ends is: vLLM evicts a prompt's
    end before its beginning.

    The engine can have a block more than once: in several tiers, and in one, since a prompt that comes twice at a time
    is computed twice. Each copy is stored and removed by an event of its own, so copies are counted, in each tier.

    identity: False where the gateway does not name blocks by token ids: only clears come out.
    unknown_parents: stored runs that could not be placed. stored_tokens, removed_tokens: as the engine says, copies
    included.
    """

    def __init__(self, instance_id: str, block_tokens: int, identity: bool) -> None:
        self.unknown_parents = 0
        self.stored_tokens = 0
        self.removed_tokens = 0
        self._instance_id = instance_id
        self._block_tokens = block_tokens
        self._identity = identity
        self._engine_block_tokens = 0
        self._places: dict[int, Place] = {}  # by the engine's hash
        self._tiers: dict[str, _Tier] = {}

    def __len__(self) -> int:
        """Engine blocks held."""
        return len(self._places)

    def apply(self, events: Iterable[EngineEvent]) -> tuple[CacheEvent, ...]:
        out: list[CacheEvent] = []
        for event in events:
            match event:
                case EngineStored():
                    if event.group_idx in GROUPS:
                        for change in self._store(event):
                            _put(out, change)
                case EngineRemoved():
                    if event.group_idx in GROUPS and (removed := self._remove(event)):
                        _put(out, BlocksRemoved(self._instance_id, removed, event.tier))
                case _:
                    out.append(self.clear())
        return tuple(out)

    def clear(self) -> CacheCleared:
        self._places.clear()
        self._tiers.clear()
        return CacheCleared(self._instance_id)

    def held(self) -> tuple[CacheEvent, ...]:
        """What tells a reader all that is held, whatever it believed before."""
        pool = self._tier("")
        blocks = {block.hash: block for engine_hash in pool.copies for block in self._places[engine_hash].ended}
        inner = {block.before.hash for block in blocks.values() if block.before is not None}
        prefixes = [block.prefix() for own_hash, block in blocks.items() if own_hash not in inner]
        return (
            CacheCleared(self._instance_id),
            *(self._stored(prefix) for prefix in prefixes),
            *self._holes(block for prefix in prefixes for block in prefix),
            *(
                BlocksStored(self._instance_id, tuple(tier.users), name)
                for name, tier in self._tiers.items()
                if name and tier.users
            ),
        )

    def _tier(self, name: str) -> "_Tier":
        tier = self._tiers.get(name)
        if tier is None:
            tier = self._tiers[name] = _Tier()
        return tier

    def _store(self, event: EngineStored) -> list[CacheEvent]:
        self.stored_tokens += len(event.token_ids)
        self._engine_block_tokens = event.block_size or self._engine_block_tokens
        if not self._identity:
            return []
        tier = self._tier(event.tier)
        begun: list[OwnBlock] = []
        for engine_hash, place in self._placed(event):
            self._places.setdefault(engine_hash, place)
            begun += tier.store(engine_hash, place)
        if not begun:
            return []
        if event.tier:
            stored = BlocksStored(self._instance_id, tuple(block.hash for block in begun), event.tier)
            return [stored, *self._forgotten(event.tier, tier)]
        prefix = begun[-1].prefix()
        return [self._stored(prefix), *self._holes(prefix)]

    def _placed(self, event: EngineStored) -> list[tuple[int, Place]]:
        """The blocks of which it is known where they lie."""
        size = event.block_size
        has_tokens = size > 0 and len(event.token_ids) == len(event.block_hashes) * size  # some tiers tell hashes only
        salt, extras = _scope(event)
        place: Place | None = Place(token_root(event.lora_name or "", salt))
        if event.parent_block_hash is not None:
            place = self._places.get(event.parent_block_hash)
        placed = []
        for i, engine_hash in enumerate(event.block_hashes):
            known = self._places.get(engine_hash)
            if known is None and place is not None and has_tokens:
                known = place.after(event.token_ids[i * size : (i + 1) * size], self._block_tokens, extras[i])
            place = known
            if place is not None:
                placed.append((engine_hash, place))
        if len(placed) < len(event.block_hashes):
            self.unknown_parents += 1
        return placed

    def _remove(self, event: EngineRemoved) -> tuple[int, ...]:
        """The own blocks that are held in the event's tier no more."""
        self.removed_tokens += len(event.block_hashes) * self._engine_block_tokens
        tier = self._tier(event.tier)
        tier.drops = True
        return tuple(
            own_hash for engine_hash in event.block_hashes for own_hash in self._remove_copy(tier, engine_hash)
        )

    def _remove_copy(self, tier: "_Tier", engine_hash: int) -> list[int]:
        if not tier.remove(engine_hash):
            return []
        place = self._places[engine_hash]
        if not any(engine_hash in other.copies for other in self._tiers.values()):
            del self._places[engine_hash]
        return tier.ended(place)

    def _forgotten(self, name: str, tier: "_Tier") -> list[CacheEvent]:
        """Many at a time: finding the oldest one steps over all that were forgotten since the dict grew."""
        surplus = len(tier.copies) - MOST_NEVER_DROPPED
        if tier.drops or surplus <= 0:
            return []
        gone: list[int] = []
        for oldest in list(islice(tier.copies, surplus + MOST_NEVER_DROPPED // 100)):
            tier.copies[oldest] = 1
            gone += self._remove_copy(tier, oldest)
        return [BlocksRemoved(self._instance_id, tuple(gone), name)] if gone else []

    def _stored(self, prefix: Sequence[OwnBlock]) -> BlocksStored:
        return BlocksStored(self._instance_id, tuple(block.hash for block in prefix))

    def _holes(self, blocks: Iterable[OwnBlock]) -> list[CacheEvent]:
        """Blocks that had to be told with those behind them, but are not held."""
        users = self._tier("").users
        holes = dict.fromkeys(block.hash for block in blocks if block.hash not in users)
        return [BlocksRemoved(self._instance_id, tuple(holes))] if holes else []


class _Tier:
    """copies: of each engine block, those that came first before others. users: by own hash: engine blocks in which it
    ends. drops: whether it ever said that it dropped one."""

    __slots__ = ("copies", "drops", "users")

    def __init__(self) -> None:
        self.copies: Counter[int] = Counter()
        self.users: Counter[int] = Counter()
        self.drops = False

    def store(self, engine_hash: int, place: Place) -> list[OwnBlock]:
        """Own blocks that were not there before."""
        self.copies[engine_hash] += 1
        if self.copies[engine_hash] > 1:
            return []
        for block in place.ended:
            self.users[block.hash] += 1
        return [block for block in place.ended if self.users[block.hash] == 1]

    def remove(self, engine_hash: int) -> bool:
        """Whether that was the last copy."""
        copies = self.copies[engine_hash]
        if copies > 1:
            self.copies[engine_hash] = copies - 1
        elif copies:
            del self.copies[engine_hash]
        return copies == 1

    def ended(self, place: Place) -> list[int]:
        """Own blocks that are there no more, after an engine block's last copy has gone."""
        gone: list[int] = []
        for block in place.ended:
            self.users[block.hash] -= 1
            if not self.users[block.hash]:
                del self.users[block.hash]
                gone.append(block.hash)
        return gone


def _put(changes: list[CacheEvent], change: CacheEvent) -> None:
    """The engine sends an event for each block: those that follow each other are told together. What the pool stores is
    a whole prefix each time."""
    before = changes[-1] if changes else None
    match before, change:
        case (BlocksRemoved(), BlocksRemoved()) if before.tier == change.tier:
            changes[-1] = BlocksRemoved(change.instance_id, before.blocks + change.blocks, change.tier)
        case (BlocksStored(), BlocksStored()) if before.tier == change.tier != "":
            changes[-1] = BlocksStored(change.instance_id, before.blocks + change.blocks, change.tier)
        case _:
            changes.append(change)


def _scope(event: EngineStored) -> tuple[str, list[Sequence[Any]]]:
    """The cache salt of a prompt's first block, and what but tokens, adapter and salt went into each block's hash."""
    extras: list[Sequence[Any]] = []
    for keys in (event.extra_keys or [])[: len(event.block_hashes)]:
        keys = keys or []
        adapters = (event.lora_name, event.lora_id)
        extras.append(keys[1:] if keys and keys[0] is not None and keys[0] in adapters else keys)
    extras += [()] * (len(event.block_hashes) - len(extras))
    match extras:
        case [[str(salt)], *_] if event.parent_block_hash is None:
            extras[0] = ()
            return salt, extras
    return "", extras
