"""How many requests use a block. What nobody uses is forgotten, so a block that is known has a user."""

from collections.abc import Iterable


def add_uses(uses: dict[int, int], blocks: Iterable[int]) -> None:
    for block in blocks:
        uses[block] = uses.get(block, 0) + 1


def remove_uses(uses: dict[int, int], blocks: Iterable[int]) -> None:
    """Undoes `add_uses` of the same blocks."""
    for block in blocks:
        count = uses[block] - 1
        if count:
            uses[block] = count
        else:
            del uses[block]
