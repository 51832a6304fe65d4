"""Which blocks an instance is believed to hold: an LRU of bounded size, corrected by what the instance reports.

Blocks are used deepest first, so that the root of a prefix is always more recent than what hangs on it, and
eviction, as in vLLM, takes the tail of a prefix before its root.
"""

from collections import OrderedDict
from collections.abc import Iterable

from scheduler.holders import Holders


class CacheView:
    """held: blocks of prompts sent to the instance. expected: blocks of prompts that wait for it; those that follow
    will find them cached, unless the prompt moves away first."""

    def __init__(self, max_blocks: int, holders: Holders, bit: int) -> None:
        self._max_blocks = max(1, max_blocks)
        self._holders = holders
        self._bit = bit
        # Least recent first. A dict would do but for eviction: its first key is searched for from where it once began.
        self._held: OrderedDict[int, None] = OrderedDict()
        self._expected: dict[int, int] = {}  # block -> prompts that wait with it

    def __len__(self) -> int:
        return len(self._held)

    def cached_blocks(self, blocks: tuple[int, ...]) -> int:
        """How many leading blocks of the prompt will be cached when it runs there after all that waits."""
        held, expected = self._held, self._expected
        for count, block in enumerate(blocks):
            if block not in held and block not in expected:
                return count
        return len(blocks)

    def held_blocks(self, blocks: tuple[int, ...]) -> int:
        """How many leading blocks of the prompt are cached or being computed at this moment."""
        held = self._held
        for count, block in enumerate(blocks):
            if block not in held:
                return count
        return len(blocks)

    def expect(self, blocks: tuple[int, ...]) -> None:
        expected = self._expected
        for block in blocks:
            count = expected.get(block, 0)
            expected[block] = count + 1
            if not count and block not in self._held:
                self._holders.add(block, self._bit)

    def unexpect(self, blocks: tuple[int, ...]) -> None:
        expected = self._expected
        for block in blocks:
            count = expected[block] - 1
            if count:
                expected[block] = count
            else:
                del expected[block]
                if block not in self._held:
                    self._holders.remove(block, self._bit)

    def use(self, blocks: tuple[int, ...]) -> None:
        """The instance runs a prompt of these blocks: they are now its most recent ones."""
        held = self._held
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                if block not in self._expected:
                    self._holders.add(block, self._bit)
        while len(held) > self._max_blocks:
            block, _ = held.popitem(last=False)
            if block not in self._expected:
                self._holders.remove(block, self._bit)

    def drop(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if block in self._held:
                del self._held[block]
                if block not in self._expected:
                    self._holders.remove(block, self._bit)

    def clear(self) -> None:
        self.drop(list(self._held))
