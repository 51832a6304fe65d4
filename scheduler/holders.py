"""Which instances are believed to hold a block: a bit for each instance, so that a block costs one number.

Bounded by the cache views it mirrors: a block that no view holds any more is forgotten.
"""

from collections.abc import Iterable, Iterator, Mapping, Set


class Holders:
    def __init__(self) -> None:
        self._masks: dict[int, int] = {}  # block -> one bit for each instance that holds it
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

    def add(self, block: int, bit: int) -> None:
        self._masks[block] = self._masks.get(block, 0) | bit

    def add_all(self, blocks: Iterable[int], bit: int) -> None:
        masks = self._masks
        for block in blocks:
            masks[block] = masks.get(block, 0) | bit

    def remove(self, block: int, bit: int) -> None:
        self.remove_all((block,), bit)

    def remove_all(self, blocks: Iterable[int], bit: int) -> None:
        masks, others = self._masks, ~bit
        for block in blocks:
            left = masks[block] & others
            if left:
                masks[block] = left
            else:
                del masks[block]

    def deepest(self, blocks: tuple[int, ...]) -> tuple[int, int]:
        """How many leading blocks some instance holds, and the mask of those that hold the last of them."""
        masks = self._masks
        mask = 0
        for depth, block in enumerate(blocks):
            here = masks.get(block)
            if here is None:
                return depth, mask
            mask = here
        return len(blocks), mask

    def deepest_of(self, blocks: tuple[int, ...], bits: int) -> tuple[int, int]:
        """The same of the instances with these bits alone."""
        masks = self._masks
        mask = 0
        for depth, block in enumerate(blocks):
            here = masks.get(block, 0) & bits
            if not here:
                return depth, mask
            mask = here
        return len(blocks), mask

    def instances(self, mask: int) -> Iterator[str]:
        """The instances of a mask, in the order of their bits."""
        while mask:
            bit = mask & -mask
            mask ^= bit
            instance_id = self._instance_ids[bit.bit_length() - 1]
            if instance_id is not None:
                yield instance_id

    def check(self, blocks: Mapping[int, tuple[str, Set[int]]]) -> None:
        """Raise AssertionError where these are not, by bit, the instances there are and the blocks they hold."""
        masks: dict[int, int] = {}
        for bit, (_, held) in blocks.items():
            for block in held:
                masks[block] = masks.get(block, 0) | bit
        assert self._masks == masks, "holders of blocks"
        known = {1 << position: name for position, name in enumerate(self._instance_ids) if name is not None}
        assert known == {bit: name for bit, (name, _) in blocks.items()}, "bits of instances"
