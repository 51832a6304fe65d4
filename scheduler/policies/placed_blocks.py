"""Which instance was given which prompts: the approximate prefix tree that several routers keep.

Their trees hold text. Block hashes are chained, so a block stands for the whole prefix that ends in it and a
dictionary over blocks is the same tree, cut at block ends.
"""

from collections import OrderedDict
from collections.abc import Iterator, Set
from itertools import islice


class PlacedBlocks:
    """A bounded number of blocks of each instance is remembered; the least recently placed is forgotten first, the tail
    of a prompt before its root, as a tree evicts leaves."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._holders: dict[int, dict[str, None]] = {}  # block -> instances given it, the most recent last
        self._recent: dict[str, OrderedDict[int, None]] = {}  # instance -> its blocks, least recent first

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, instance_id: str, max_blocks: int) -> None:
        self._limits[instance_id] = max_blocks
        self._recent[instance_id] = OrderedDict()

    def remove(self, instance_id: str) -> None:
        del self._limits[instance_id]
        for block in self._recent.pop(instance_id):
            self._forget(block, instance_id)

    def size(self, instance_id: str) -> int:
        """Blocks remembered of the instance."""
        return len(self._recent[instance_id])

    def oldest(self, instance_id: str, count: int) -> Iterator[int]:
        """Blocks of the instance that would be forgotten first."""
        return islice(self._recent[instance_id], count)

    def depth(self, blocks: tuple[int, ...], instance_id: str) -> int:
        """How many leading blocks were placed on the instance."""
        recent = self._recent[instance_id]
        for count, block in enumerate(blocks):
            if block not in recent:
                return count
        return len(blocks)

    def match(self, blocks: tuple[int, ...], avoid: Set[str]) -> tuple[int, list[str]]:
        """How many leading blocks were placed on some instance outside `avoid`, and who was given all of them, the
        most recent last."""
        holders_of = self._holders
        depth, last = 0, None
        for block in blocks:
            holders = holders_of.get(block)
            if holders is None or (avoid and holders.keys() <= avoid):
                break
            depth += 1
            last = holders
        if last is None:
            return 0, []
        return depth, [i for i in last if i not in avoid]

    def insert(self, blocks: tuple[int, ...], instance_id: str) -> None:
        recent = self._recent[instance_id]
        holders_of = self._holders
        for block in reversed(blocks):
            if block in recent:
                recent.move_to_end(block)
                holders = holders_of[block]
                if len(holders) > 1:
                    del holders[instance_id]
                    holders[instance_id] = None
            else:
                recent[block] = None
                known = holders_of.get(block)
                if known is None:
                    holders_of[block] = {instance_id: None}
                else:
                    known[instance_id] = None
        limit = self._limits[instance_id]
        while len(recent) > limit:
            block, _ = recent.popitem(last=False)
            self._forget(block, instance_id)

    def _forget(self, block: int, instance_id: str) -> None:
        holders = self._holders[block]
        del holders[instance_id]
        if not holders:
            del self._holders[block]
