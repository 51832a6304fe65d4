"""Which instances are believed to hold a block: a bit for each instance, so that a block costs one number.

Bounded by the cache views it mirrors: a block that no view holds any more is forgotten.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any


class Holders:
    """A bit is one object as long as its instance stays, so that a block which nobody else holds is told by that alone,
    and takes no memory for its mask: with thousands of instances a mask has hundreds of bytes."""

    def __init__(self) -> None:
        self._masks: dict[object, Any] = {}  # block -> int, one bit for each instance that holds it
        self._instance_ids: list[str | None] = []  # by bit; None: free for the next to join

    def join(self, instance_id: str) -> int:
        """The bit under which the instance's blocks are noted."""
        for position, taken in enumerate(self._instance_ids):
            if taken is None:
                self._instance_ids[position] = instance_id
                return 1 << position
        self._instance_ids.append(instance_id)
        return 1 << (len(self._instance_ids) - 1)

    def leave(self, bit: int) -> None:
        """Its blocks must have been removed."""
        self._instance_ids[bit.bit_length() - 1] = None

    def add(self, block: object, bit: Any) -> None:
        self.add_all((block,), bit)

    def add_all(self, blocks: Iterable[object], bit: Any) -> None:
        masks = self._masks
        for block in blocks:
            mask = masks.setdefault(block, bit)
            if mask is not bit:
                masks[block] = mask | bit

    def remove(self, block: object, bit: Any) -> None:
        self.remove_all((block,), bit)

    def remove_all(self, blocks: Iterable[object], bit: Any) -> None:
        masks = self._masks
        for block in blocks:
            mask = masks[block]
            if mask is bit or mask == bit:
                del masks[block]
            else:
                masks[block] = mask & ~bit

    def deepest(self, blocks: Sequence[object]) -> tuple[int, int]:
        """How many leading blocks some instance holds, and the mask of those that hold the last of them."""
        masks = self._masks
        depth, mask = 0, 0
        for block in blocks:
            here = masks.get(block)
            if here is None:
                break
            depth, mask = depth + 1, here
        return depth, mask

    def deepest_of(self, blocks: Sequence[object], bits: int) -> tuple[int, int]:
        """The same of the instances with these bits alone."""
        masks = self._masks
        depth = mask = 0
        for block in blocks:
            here = masks.get(block, 0) & bits
            if not here:
                break
            depth, mask = depth + 1, here
        return depth, mask

    def instances(self, mask: int) -> Iterator[str]:
        """The instances of a mask, in the order of their bits."""
        while mask:
            bit = mask & -mask
            mask ^= bit
            instance_id = self._instance_ids[bit.bit_length() - 1]
            if instance_id is not None:
                yield instance_id

    def check(self, blocks: Mapping[int, tuple[str, Set[object]]]) -> None:
        """Raise AssertionError where these are not, by bit, the instances there are and the blocks they hold."""
        masks: dict[object, int] = {}
        for bit, (_, held) in blocks.items():
            for block in held:
                masks[block] = masks.get(block, 0) | bit
        assert self._masks == masks, "holders of blocks"
        known = {1 << position: name for position, name in enumerate(self._instance_ids) if name is not None}
        assert known == {bit: name for bit, (name, _) in blocks.items()}, "bits of instances"
