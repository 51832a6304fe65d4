"""KV cache that running requests take: a block that several of them share is taken once, as in the engine."""

from collections import Counter
from collections.abc import Sequence


class KvBooking:
    """tokens: reserved at this moment."""

    def __init__(self) -> None:
        self.tokens = 0
        self._users: dict[int, int] = {}  # block -> running requests that use it
        self._block_tokens: dict[int, int] = {}  # as booked by the first of them: others may estimate otherwise

    def missing_tokens(self, blocks: tuple[int, ...], block_tokens: int) -> int:
        """What booking these blocks would add."""
        users = self._users
        return sum(block not in users for block in blocks) * block_tokens

    def book(self, blocks: tuple[int, ...], block_tokens: int, own_tokens: int) -> None:
        """own_tokens: what the request takes besides its blocks: the rest of its prompt, and its answer."""
        users = self._users
        self.tokens += own_tokens
        for block in blocks:
            count = users.get(block, 0)
            users[block] = count + 1
            if not count:
                self._block_tokens[block] = block_tokens
                self.tokens += block_tokens

    def give_back(self, blocks: tuple[int, ...], own_tokens: int) -> None:
        """Undoes `book` of the same values."""
        users = self._users
        self.tokens -= own_tokens
        for block in blocks:
            count = users[block] - 1
            if count:
                users[block] = count
            else:
                del users[block]
                self.tokens -= self._block_tokens.pop(block)

    def check(self, booked: Sequence[tuple[tuple[int, ...], int]]) -> None:
        """Raise AssertionError where these are not the blocks and own tokens that are booked."""
        assert self._users == Counter(block for blocks, _ in booked for block in blocks), "users of blocks"
        assert self._block_tokens.keys() == self._users.keys(), "sizes of blocks"
        assert all(own_tokens >= 0 for _, own_tokens in booked), "a request takes less than its blocks"
        own_tokens = sum(own_tokens for _, own_tokens in booked)
        assert self.tokens == own_tokens + sum(self._block_tokens.values()), "KV cache booked"
