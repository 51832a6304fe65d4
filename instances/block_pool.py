"""The KV cache of a simulated engine: a finite pool of blocks with prefix caching, as in vLLM V1.

A block is free, private to one sequence, or named by the chained hash of all tokens up to its end. Named blocks are
shared; unused ones stay cached until their room is needed, least recently used first. Sequences give back their tail
first, so that the end of a prefix is evicted before its beginning.
"""

from collections.abc import Sequence


class BlockPool:
    """Counts blocks rather than numbering them. used = private + named in use."""

    def __init__(self, total_blocks: int) -> None:
        self.total_blocks = total_blocks
        self._private = 0
        self._users: dict[int, int] = {}  # hash -> sequences that use the block
        self._unused: dict[int, None] = {}  # cached, least recently used first

    @property
    def used_blocks(self) -> int:
        return self._private + len(self._users)

    @property
    def available_blocks(self) -> int:
        """Free, or cached and unused."""
        return self.total_blocks - self.used_blocks

    def cached(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are cached."""
        users, unused = self._users, self._unused
        for count, block in enumerate(blocks):
            if block not in users and block not in unused:
                return count
        return len(blocks)

    def unused(self, blocks: Sequence[int]) -> int:
        """How many of these cached blocks nobody uses: taking them leaves that many fewer available."""
        return sum(block in self._unused for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """One more sequence uses these blocks, all of them cached."""
        for block in blocks:
            self._unused.pop(block, None)
            self._users[block] = self._users.get(block, 0) + 1

    def allocate(self, count: int) -> bool:
        """Take private blocks, evicting cached ones as needed; False, and nothing taken, if there are too few."""
        if count > self.available_blocks:
            return False
        self._private += count
        for _ in range(self.used_blocks + len(self._unused) - self.total_blocks):
            del self._unused[next(iter(self._unused))]
        return True

    def name(self, block: int) -> bool:
        """A private block is computed and can be found by its hash from now on. False if an equal one is cached: then
        this one stays private."""
        if block in self._users or block in self._unused:
            return False
        self._private -= 1
        self._users[block] = 1
        return True

    def give_back(self, named: Sequence[int], private: int) -> None:
        """A sequence ends: its named blocks, in order, and its private ones."""
        self._private -= private
        for block in reversed(named):
            users = self._users[block] - 1
            if users:
                self._users[block] = users
            else:
                del self._users[block]
                self._unused[block] = None

    def clear(self) -> bool:
        """Forget all cached blocks; False, and nothing done, while any block is used (as vLLM does)."""
        if self.used_blocks:
            return False
        self._unused.clear()
        return True
