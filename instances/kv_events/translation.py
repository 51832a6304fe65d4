"""What a vLLM server says of its KV cache, in the core's words.

The engine hashes its blocks with an algorithm, a seed and a size of its own. None of these need be known: what it
stores comes with the token ids and the parent's hash, from which the gateway's own hashes are computed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dualmap.instances.kv_events.format import EngineEvent, EngineRemoved, EngineStored
from dualmap.instances.kv_events.places import OwnBlock, Place
from dualmap.scheduler.blocks import token_root
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import CacheEvent

GROUPS = (None, 0)  # of a hybrid model's cache groups one is followed: a prefix is cached when all of them have it


class KvTranslation:
    """The blocks of one server. An own block is held while an engine block in which it ends is: vLLM evicts a prompt's
    end before its beginning.

    The engine can have a block more than once: in several media, and in one, since a prompt that comes twice at a time
    is computed twice. Each copy is stored and removed by an event of its own, so copies are counted.

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
        self._copies: dict[str | None, Counter[int]] = {}  # by medium: copies of each engine block
        self._users: Counter[int] = Counter()  # by own hash: engine blocks held in which it ends

    def __len__(self) -> int:
        """Engine blocks held."""
        return len(self._places)

    def apply(self, events: Iterable[EngineEvent]) -> tuple[CacheEvent, ...]:
        out: list[CacheEvent] = []
        for event in events:
            match event:
                case EngineStored():
                    if event.group_idx in GROUPS:
                        out += self._store(event)
                case EngineRemoved():
                    if event.group_idx in GROUPS and (removed := self._remove(event)):
                        before = out[-1] if out else None
                        if isinstance(before, BlocksRemoved):  # the engine sends an event for each
                            out.pop()
                            removed = before.blocks + removed
                        out.append(BlocksRemoved(self._instance_id, removed))
                case _:
                    out.append(self.clear())
        return tuple(out)

    def clear(self) -> CacheCleared:
        self._places.clear()
        self._copies.clear()
        self._users.clear()
        return CacheCleared(self._instance_id)

    def held(self) -> tuple[CacheEvent, ...]:
        """What tells a reader all that is held, whatever it believed before."""
        blocks = {block.hash: block for place in self._places.values() for block in place.ended}
        inner = {block.before.hash for block in blocks.values() if block.before is not None}
        prefixes = [block.prefix() for own_hash, block in blocks.items() if own_hash not in inner]
        return (
            CacheCleared(self._instance_id),
            *(self._stored(prefix) for prefix in prefixes),
            *self._holes(block for prefix in prefixes for block in prefix),
        )

    def _store(self, event: EngineStored) -> list[CacheEvent]:
        self.stored_tokens += len(event.token_ids)
        self._engine_block_tokens = event.block_size or self._engine_block_tokens
        if not self._identity:
            return []
        copies = self._copies.setdefault(event.medium, Counter())
        begun: OwnBlock | None = None
        for engine_hash, place in self._placed(event):
            copies[engine_hash] += 1
            if engine_hash in self._places:
                continue
            self._places[engine_hash] = place
            for block in place.ended:
                self._users[block.hash] += 1
                if self._users[block.hash] == 1:
                    begun = block
        if begun is None:
            return []
        prefix = begun.prefix()
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
        """The own blocks that are held no more."""
        self.removed_tokens += len(event.block_hashes) * self._engine_block_tokens
        copies = self._copies.get(event.medium, Counter())
        removed = []
        for engine_hash in event.block_hashes:
            if not copies[engine_hash]:
                continue
            copies[engine_hash] -= 1
            if copies[engine_hash]:
                continue
            del copies[engine_hash]
            if any(engine_hash in others for others in self._copies.values()):
                continue
            for block in self._places.pop(engine_hash).ended:
                self._users[block.hash] -= 1
                if not self._users[block.hash]:
                    del self._users[block.hash]
                    removed.append(block.hash)
        return tuple(removed)

    def _stored(self, prefix: Sequence[OwnBlock]) -> BlocksStored:
        return BlocksStored(self._instance_id, tuple(block.hash for block in prefix))

    def _holes(self, blocks: Iterable[OwnBlock]) -> list[CacheEvent]:
        """Blocks that had to be told with those behind them, but are not held."""
        holes = dict.fromkeys(block.hash for block in blocks if block.hash not in self._users)
        return [BlocksRemoved(self._instance_id, tuple(holes))] if holes else []


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
