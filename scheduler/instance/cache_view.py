"""Which blocks an instance is believed to hold: an LRU of bounded size, corrected by what the instance reports.

Blocks are used deepest first, so that the root of a prefix is always more recent than what hangs on it, and
eviction, as in vLLM, takes the tail of a prefix before its root.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence, Set
from typing import Any

from dualmap.scheduler.holders import Holders

LEAST_SHARE = 0.25  # of its size that a cache is taken to keep, however often it was found to have less
SHRINK = 0.98  # for each prompt of which less was cached than believed
GROW = 1.002  # for each other one: a size at which one prompt in ten is wrong stays
USES_KEPT = 4  # times its size in blocks that a cache remembers of its past uses, before it forgets what is outdated


class Use:
    """One prompt that the instance ran."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: tuple[int, ...]) -> None:
        self.blocks = blocks


class CacheView:
    """held: blocks of prompts sent to the instance. expected: blocks of prompts that wait for it; those that follow
    will find them cached, unless the prompt moves away first. slow: blocks in tiers behind its pool -> bits of the
    tiers, as reported; whether they are held besides is another matter.

    The order of use is kept by prompt, not by block: each block knows its last use. Here blocks are looked up and no
    more: as objects they need not become machine integers each time.
    """

    def __init__(self, max_blocks: int, holders: Holders, bit: int) -> None:
        self._size = max(1, max_blocks)
        self._max_blocks = float(self._size)
        self._holders = holders
        self._bit: Any = bit  # one object, see Holders
        self._held: dict[object, Use] = {}  # block -> its last use
        self._uses: deque[Use] = deque()  # the oldest first
        self._listed = 0  # blocks in _uses
        self._passed = 0  # blocks of the oldest use, from its end, that eviction has dealt with
        self._expected: dict[object, int] = {}  # block -> prompts that wait with it
        self.slow: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def cached_blocks(self, blocks: Sequence[object]) -> int:
        """How many leading blocks of the prompt will be cached when it runs there after all that waits."""
        held, expected = self._held, self._expected
        if not expected:
            return self.held_blocks(blocks)
        count = 0
        for block in blocks:
            if block not in held and block not in expected:
                break
            count += 1
        return count

    def held_blocks(self, blocks: Sequence[object]) -> int:
        """How many leading blocks of the prompt are cached or being computed at this moment."""
        held = self._held
        count = 0
        for block in blocks:
            if block not in held:
                break
            count += 1
        return count

    def expect(self, blocks: Sequence[object]) -> None:
        expected = self._expected
        for block in blocks:
            count = expected.get(block, 0)
            expected[block] = count + 1
            if not count and block not in self._held and block not in self.slow:
                self._holders.add(block, self._bit)

    def unexpect(self, blocks: Sequence[object]) -> None:
        expected = self._expected
        for block in blocks:
            count = expected[block] - 1
            if count:
                expected[block] = count
            else:
                del expected[block]
                if block not in self._held and block not in self.slow:
                    self._holders.remove(block, self._bit)

    def use(self, blocks: tuple[int, ...]) -> None:
        """The instance runs a prompt of these blocks: they are now its most recent ones."""
        if not blocks:
            return
        use, held, expected = Use(blocks), self._held, self._expected
        objects: Sequence[object] = blocks
        brought: list[object] = []
        count = len(held)
        for block in objects:
            held[block] = use
            if len(held) > count:  # it was not held
                count += 1
                brought.append(block)
        if expected or self.slow:
            brought = self._nowhere_else(brought)
        self._holders.add_all(brought, self._bit)
        self._uses.append(use)
        self._listed += len(blocks)
        if float(len(held)) > self._max_blocks:
            self._evict()
        if float(self._listed) > USES_KEPT * self._max_blocks:
            self._forget_outdated()

    def drop(self, blocks: Iterable[object]) -> None:
        gone = [block for block in blocks if self._held.pop(block, None) is not None]
        self._holders.remove_all(self._nowhere_else(gone), self._bit)

    def store_slow(self, blocks: Iterable[object], tier: int) -> None:
        """They are in that tier, too."""
        slow = self.slow
        for block in blocks:
            mask = slow.get(block, 0)
            slow[block] = mask | 1 << tier
            if not mask and block not in self._held and block not in self._expected:
                self._holders.add(block, self._bit)

    def drop_slow(self, blocks: Iterable[object], tier: int) -> None:
        slow = self.slow
        for block in blocks:
            mask = slow.get(block, 0)
            if left := mask & ~(1 << tier):
                slow[block] = left
            elif mask:
                del slow[block]
                if block not in self._held and block not in self._expected:
                    self._holders.remove(block, self._bit)

    def was_right(self, right: bool) -> None:
        """Whether the instance had as much of a prompt cached as was believed. If not, it forgets sooner than its size
        says: others use it, or answers take more of it than was thought."""
        if right:
            self._max_blocks = min(float(self._size), self._max_blocks * GROW)
        else:
            self._max_blocks = max(self._size * LEAST_SHARE, self._max_blocks * SHRINK, 1)
            self._evict()

    def resize(self, max_blocks: int) -> None:
        """The instance keeps so many from now on."""
        self._size = max(1, max_blocks)
        self._max_blocks = float(self._size)
        self._evict()

    def clear(self) -> None:
        slow, self.slow = self.slow, {}
        self._holders.remove_all([b for b in slow if b not in self._held and b not in self._expected], self._bit)
        self.drop(list(self._held))

    def blocks(self) -> Set[object]:
        """Those that are held, in a tier or expected."""
        return self._held.keys() | self._expected.keys() | self.slow.keys()

    def check(self, waiting: Iterable[tuple[int, ...]]) -> None:
        """Raise AssertionError where more is held than may be, or what is expected is not what waits."""
        assert len(self._held) <= self._max_blocks <= self._size, "more blocks are held than the cache has"
        assert self._expected == Counter(block for blocks in waiting for block in blocks), "expected blocks"
        assert self._listed == sum(len(use.blocks) for use in self._uses), "blocks listed"
        last_uses: dict[object, Use] = {block: use for use in self._uses for block in use.blocks}
        assert all(last_uses[block] is use for block, use in self._held.items()), "a use of what is held is forgotten"

    def _evict(self) -> None:
        held, expected = self._held, self._expected
        over = len(held) - int(self._max_blocks)
        while over > 0:
            use = self._uses[0]
            blocks: tuple[object, ...] = use.blocks
            passed, end = self._passed, len(blocks)
            if passed == end:
                self._uses.popleft()
                self._listed -= end
                self._passed = 0
                continue
            gone: list[object] = []
            while passed < end and over > 0:
                passed += 1
                block = blocks[end - passed]
                if held.get(block) is use:
                    del held[block]
                    over -= 1
                    gone.append(block)
            self._passed = passed
            if expected or self.slow:
                gone = self._nowhere_else(gone)
            self._holders.remove_all(gone, self._bit)

    def _nowhere_else(self, blocks: list[object]) -> list[object]:
        """Those that the instance has in its pool or nowhere."""
        return [block for block in blocks if block not in self._expected and block not in self.slow]

    def _forget_outdated(self) -> None:
        held = self._held
        for use in self._uses:
            use.blocks = tuple([block for block in use.blocks if held.get(block) is use])
        self._uses = deque([use for use in self._uses if use.blocks])
        self._listed = sum([len(use.blocks) for use in self._uses])
        self._passed = 0
