"""KV cache that running requests take: a block that several of them share is taken once, as in the engine."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


class KvBooking:
    """tokens: reserved at this moment."""

    def __init__(self) -> None:
        self.tokens = 0
        self._block_tokens: dict[object, int] = {}  # as booked by the first who uses it: others may estimate otherwise
        self._others: dict[object, int] = {}  # block -> running requests that use it besides one

    def missing_tokens(self, blocks: Sequence[object], block_tokens: int) -> int:
        """What booking these blocks would add."""
        booked = self._block_tokens
        return sum(block not in booked for block in blocks) * block_tokens

    def book(self, blocks: Sequence[object], block_tokens: Any, own_tokens: int) -> None:
        """own_tokens: what the request takes besides its blocks: the rest of its prompt, and its answer."""
        booked, others = self._block_tokens, self._others
        count = before = len(booked)
        for block in blocks:
            booked.setdefault(block, block_tokens)
            if len(booked) > count:  # it was not booked
                count += 1
            else:
                others[block] = others.get(block, 0) + 1
        self.tokens += own_tokens + (count - before) * int(block_tokens)

    def give_back(self, blocks: Sequence[object], own_tokens: int) -> None:
        """Undoes `book` of the same values."""
        booked, others = self._block_tokens, self._others
        tokens = own_tokens
        for block in blocks:
            if not others or block not in others:
                tokens += booked[block]
                del booked[block]
            elif others[block] > 1:
                others[block] -= 1
            else:
                del others[block]
        self.tokens -= tokens

    def give_back_own(self, own_tokens: int) -> None:
        """So many of those that a request takes besides its blocks, which stay booked."""
        self.tokens -= own_tokens

    def check(self, booked: Sequence[tuple[tuple[int, ...], int]]) -> None:
        """Raise AssertionError where these are not the blocks and own tokens that are booked."""
        users = {block: 1 + self._others.get(block, 0) for block in self._block_tokens}
        assert users == Counter(block for blocks, _ in booked for block in blocks), "users of blocks"
        assert self._others.keys() <= users.keys(), "others who use what nobody does"
        assert all(own_tokens >= 0 for _, own_tokens in booked), "a request takes less than its blocks"
        own_tokens = sum(own_tokens for _, own_tokens in booked)
        assert self.tokens == own_tokens + sum(self._block_tokens.values()), "KV cache booked"
