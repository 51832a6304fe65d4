"""How many leading blocks of a prompt form its ring key: more for hot prefixes (arXiv 2602.06502, section 3.2).

A prefix that too many requests share would load one pair of instances. Such a prefix is deepened: its requests are told
apart by the first block in which they differ. When its share has fallen well below, it is made shallow again.

Requests whose blocks are all the same (one system prompt, and what follows is shorter than a block) cannot be told
apart: their prompt gets more homes than the two that a key has, as many as its share of the requests asks for.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from dualmap.scheduler.record import record

HOT_SHARE = 0.5  # of one instance's fair share of the requests; a key has two instances to run on
COOL_SHARE = 0.25  # of the hot threshold; far enough below it that keys do not flap
WINDOW_PER_INSTANCE = (
    64  # requests remembered for each instance: the hot threshold is then 32 requests, at any cluster size
)
MIN_WINDOW = 256  # so that a few chats on a small cluster do not come and go as crowds
# While the window fills, so that a cold start does not wait for 32 requests on one pair of instances; of requests that
# nothing tells apart, too: a chat ends in the same block a few times in a row.
MIN_CROWD = 4
SAMPLE_BLOCKS = 512  # blocks compared to find where requests differ
PAIR = 2  # homes of a key that is not spread


@record
class RingKey:
    """key: of the prompt, formed by its first `depth` blocks. shared_blocks: so many leading blocks are those of a hot
    prefix, which many other requests have, too. homes: on so many instances the key's requests are spread."""

    key: int
    depth: int
    _: KW_ONLY
    shared_blocks: int
    homes: int


@dataclass(slots=True)
class _Share:
    """What the window says of one key.

    sample: the longest prompt seen under the key. splits_at: the first block in which two of its requests differ.
    count: requests that passed the key; ends: those of them that were placed by it.
    """

    sample: tuple[int, ...]
    count: int = 0
    ends: int = 0
    _: KW_ONLY
    splits_at: int | None = None


class PrefixKeys:
    """Forms the key of each request and adapts the depths. O(depth) a request; memory is bounded by the window."""

    def __init__(self, key_blocks: int, max_key_blocks: int, *, adaptive: bool = True) -> None:
        self._key_blocks = key_blocks
        self._max_key_blocks = max_key_blocks
        self._adaptive = adaptive
        self.epoch = 0  # of what the gateways have agreed on; 0: nothing yet
        self.resize(1)
        self._window: deque[tuple[tuple[int, ...], int]] = deque()  # of each recent request: keys passed, last block
        self._shares: dict[int, _Share] = {}
        self._alike: dict[int, int] = {}  # last block of a prompt -> requests in the window whose blocks are the same
        self.depths: dict[int, int] = {}  # a deepened key -> how many blocks form the keys below it
        self.found = 0  # hot prefixes, and prompts that many have; counted each time that one is found here
        self.homes: dict[int, int] = {}  # last block of a prompt that is spread -> on how many instances, a power of 2
        self._agreed_depths: dict[int, int] = {}
        self._agreed_homes: dict[int, int] = {}

    def resize(self, instances: int) -> None:
        """The window and the threshold follow the number of instances."""
        self._instances = max(1, instances)
        self._window_size = max(MIN_WINDOW, WINDOW_PER_INSTANCE * self._instances)

    @property
    def remembered(self) -> int:
        """Requests in the window."""
        return len(self._window)

    @property
    def hot_count(self) -> float:
        """A key with more requests of those remembered is hot, and so many with one prompt ask for a home."""
        return max(MIN_CROWD, HOT_SHARE * len(self._window) / self._instances)

    def key(self, blocks: tuple[int, ...]) -> int:
        """The ring key of a prompt with at least one block, without counting it."""
        return self._path(blocks)[0][-1]

    def observe(self, blocks: tuple[int, ...]) -> RingKey:
        """Count the request and return its key; the request that makes a key hot still has the old one."""
        path, depth = self._path(blocks)
        if self._adaptive:
            self._count(path, blocks)
        return self._ring_key(path, depth, blocks)

    def shared_blocks(self, blocks: tuple[int, ...]) -> int:
        """RingKey.shared_blocks of such a request, without counting it."""
        return self._ring_key(*self._path(blocks), blocks).shared_blocks

    def agree(self, epoch: int, depths: Iterable[tuple[int, int]], homes: Iterable[tuple[int, int]]) -> bool:
        """Use these depths and homes from now on, as all gateways do. What is found here is used until all agree on
        it: a crowd that comes in a burst is all there before the others have heard of it. False if they are older than
        those in use."""
        if epoch <= self.epoch:
            return False
        self.epoch = epoch
        self._agreed_depths = dict(depths)
        self._agreed_homes = dict(homes)
        return True

    def _ring_key(self, path: tuple[int, ...], depth: int, blocks: tuple[int, ...]) -> RingKey:
        homes = self._agreed_homes.get(blocks[-1]) or self.homes.get(blocks[-1])
        if homes is not None:
            return RingKey(path[-1], depth, shared_blocks=len(blocks), homes=homes)
        return RingKey(path[-1], depth, shared_blocks=depth - 1 if len(path) > 1 else 0, homes=PAIR)

    def _path(self, blocks: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The keys from the shallowest to the one in force, and the depth of that one. Hashes are chained, so a block's
        hash stands for its prefix."""
        depth = min(self._key_blocks, len(blocks))
        key = blocks[depth - 1]
        if not self._agreed_depths and not self.depths:  # nothing is hot
            return (key,), depth
        path = [key]
        while (deeper := self._agreed_depths.get(key) or self.depths.get(key)) is not None and deeper <= len(blocks):
            depth = deeper
            key = blocks[depth - 1]
            path.append(key)
        return tuple(path), depth

    def _count(self, path: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        last = blocks[-1]
        self._window.append((path, last))
        self._alike[last] = self._alike.get(last, 0) + 1
        for key in path:
            share = self._shares.get(key)
            if share is None:
                share = self._shares[key] = _Share(blocks[:SAMPLE_BLOCKS])
            share.count += 1
        share = self._shares[path[-1]]
        share.ends += 1
        _compare(share, blocks)
        if share.ends > self.hot_count:
            self._deepen(path[-1], share)
        if self._alike[last] > PAIR * MIN_CROWD:
            self._spread(last)
        while len(self._window) > self._window_size:
            gone, its_last = self._window.popleft()
            self._forget(gone, its_last)

    def _deepen(self, key: int, share: _Share) -> None:
        """A key that is deepened already splits nearer where a crowd of prompts is too short for its depth."""
        if share.splits_at is not None and share.splits_at < self._max_key_blocks:
            depth = share.splits_at + 1
            if depth < self.depths.get(key, self._max_key_blocks + 1):
                self.depths[key] = depth
                self.found += 1

    def _spread(self, last: int) -> None:
        """A key has two homes; a prompt that asks for more of them gets twice as many, as often as that takes."""
        needed = self._alike[last] / self.hot_count
        homes = self.homes.get(last, PAIR)
        if needed > homes:
            self.homes[last] = 2 * homes
            self.found += 1

    def _gather(self, last: int) -> None:
        count = self._alike[last] - 1
        if count:
            self._alike[last] = count
        else:
            del self._alike[last]
        homes = self.homes.get(last)
        if homes is not None and count < COOL_SHARE * homes * self.hot_count:
            if homes > 2 * PAIR:
                self.homes[last] = homes // 2
            else:
                del self.homes[last]

    def _forget(self, path: tuple[int, ...], last: int) -> None:
        self._gather(last)
        self._shares[path[-1]].ends -= 1
        for key in path:
            share = self._shares[key]
            share.count -= 1
            if key in self.depths and share.count < COOL_SHARE * self.hot_count:
                del self.depths[key]
            if share.count == 0:
                del self._shares[key]

    def check(self) -> None:
        """Raise AssertionError where what is counted is not what the window holds."""
        assert self._alike == Counter(last for _, last in self._window), "requests with the same prompt"
        counts = Counter(key for path, _ in self._window for key in path)
        assert {key: share.count for key, share in self._shares.items()} == counts, "requests of keys"
        ends = Counter(path[-1] for path, _ in self._window)
        assert all(share.ends == ends[key] for key, share in self._shares.items()), "requests that end at keys"
        assert self.depths.keys() <= self._shares.keys(), "a depth of a key that nobody asks for"
        assert self.homes.keys() <= self._alike.keys(), "homes of a prompt that nobody asks for"


def _compare(share: _Share, blocks: tuple[int, ...]) -> None:
    """Note where the request first differs from the key's sample, if that is nearer than known; a prompt that only
    continues the sample, as the next turn of a chat does, does not differ."""
    if share.sample is blocks:
        return
    limit = min(len(share.sample), len(blocks), share.splits_at if share.splits_at is not None else SAMPLE_BLOCKS)
    if share.sample[:limit] != blocks[:limit]:
        share.splits_at = next(i for i in range(limit) if share.sample[i] != blocks[i])
    elif share.splits_at is None and len(blocks) > len(share.sample):
        share.sample = blocks[:SAMPLE_BLOCKS]
