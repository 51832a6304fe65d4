"""A bounded memory of who was given which prefix, by few blocks of each prompt.

Hashes are chained, so a block stands for the whole prefix that ends in it. Of each prompt some are marked: the one that
ends its key, those at twice, four times, ... that depth, and the last. The next turn of a chat holds the last block of
the turn before; a prompt that branches off is found at half of what it shares at least.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class GivenPrefixes(Generic[T]):
    """Remembers the last max_marks / 2 marks at least, and max_marks at most. Two dictionaries take turns instead of
    an order of use: O(1) a mark, and no memory for the order."""

    def __init__(self, max_marks: int) -> None:
        self.max_marks = max_marks
        self._young: dict[int, T] = {}
        self._old: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def deepest(self, blocks: tuple[int, ...], least: int) -> tuple[T | None, int]:
        """Who was given the longest prefix of at least so many blocks last, and its depth; None and 0 for nobody."""
        for depth in range(len(blocks), max(least, 1) - 1, -1):
            block = blocks[depth - 1]
            holder = self._young.get(block) or self._old.get(block)
            if holder is not None:
                return holder, depth
        return None, 0

    def give(self, blocks: tuple[int, ...], key_depth: int, to: T) -> None:
        """`to` is given the prompt, whose first key_depth blocks form its key."""
        if not blocks:
            return
        depth = max(key_depth, 1)
        while depth < len(blocks):
            self._young[blocks[depth - 1]] = to
            depth *= 2
        self._young[blocks[-1]] = to
        if len(self._young) > self.max_marks // 2:
            self._old = self._young
            self._young = {}
