"""Tiers behind the instances' KV pools, in memory, on disk or across the network: what of a prompt they hold, and what
loading it costs.

To load a token counts as a share of computing it, which is learned from first tokens of prompts that load.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY
from itertools import islice
from typing import Any

from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request

# The fastest first, named as in vLLM's KV events (medium; "remote" is their locality). Any other is taken for the last.
TIERS = ("cpu", "storage", "remote")
# Until more is known, of 6250 tokens a second: 128 KB a token at 25 GB/s, 3 GB/s and 1.5 GB/s.
FIRST_SHARES = (0.03, 0.25, 0.5)
LEAST_SHARE = 0.002
# By which factor one observation changes a share at the most: one that is wrong does little, whatever it says.
MOST_CHANGE = 1.1
LEAST_LOADED = 2048  # tokens: to load fewer takes no time that could be told from all else
MAX_SHARED_BLOCKS = 1 << 20  # 100 MB; of a store that never says what it drops, those that came first are forgotten
MAX_REVISIONS = 4  # whose shared blocks are known
_NOTHING: dict[object, int] = {}
_FASTEST = tuple((mask & -mask).bit_length() - 1 for mask in range(1 << len(TIERS)))


def tier_of(name: str) -> int:
    """Its place in TIERS."""
    return TIERS.index(name) if name in TIERS else len(TIERS) - 1


def forget_first(blocks: dict[Any, Any], most: int) -> None:
    """Forget those that came first, where there are more: a few at once, as a dict's first entry is searched for among
    all that went before."""
    if len(blocks) > most + most // 64:
        for block in tuple(islice(blocks, len(blocks) - most)):
            del blocks[block]


@record
class Loads:
    """What an instance has to load of a prompt. cached_tokens: of the prompt, what it has in its pool and in tiers.
    tokens: those in tiers, by the tier's name. work_tokens: prefill work that loading them counts as."""

    cached_tokens: int
    tokens: tuple[tuple[str, int], ...]
    _: KW_ONLY
    work_tokens: int

    @property
    def tier_tokens(self) -> int:
        return sum([tokens for _, tokens in self.tokens])

    @property
    def pool_tokens(self) -> int:
        return self.cached_tokens - self.tier_tokens

    @property
    def worth_tokens(self) -> int:
        """As many tokens in the pool spare as much work."""
        return self.cached_tokens - self.work_tokens


class Tiers:
    """Of the instances that serve the same models. seen: whether a block was ever told to be in a tier. shares: what
    loading a token costs, of computing it, by tier. shared: by the revision of those who can read them: blocks of tiers
    that all of them read -> bits of tiers."""

    def __init__(self, most_shared_blocks: int = MAX_SHARED_BLOCKS) -> None:
        self.seen = False
        self._most_shared_blocks = most_shared_blocks
        self.shares = list(FIRST_SHARES)
        self.shared: dict[str, dict[object, int]] = {}

    def share(self, blocks: Iterable[object], tier: int, revision: str) -> None:
        shared = self.shared.setdefault(revision, {})
        if len(self.shared) > MAX_REVISIONS:
            del self.shared[next(iter(self.shared))]
        for block in blocks:
            shared[block] = shared.pop(block, 0) | 1 << tier
        forget_first(shared, self._most_shared_blocks)

    def unshare(self, blocks: Iterable[object], tier: int, revision: str) -> None:
        shared = self.shared.get(revision, {})
        for block in blocks:
            if mask := shared.get(block, 0) & ~(1 << tier):
                shared[block] = mask
            else:
                shared.pop(block, None)

    def loads(
        self, request: Request, pool_tokens: int, slow: Mapping[object, int], revision: str, block_tokens: int
    ) -> Loads | None:
        """What follows in tiers on the tokens of the prompt that are in the instance's pool; None: nothing. slow: the
        blocks in the instance's own tiers. revision: the instance's. block_tokens: where the request does not say."""
        block_tokens = request.block_tokens or block_tokens
        blocks: Sequence[object] = request.blocks
        shared = self.shared.get(revision, _NOTHING)
        counts = [0] * len(TIERS)
        for position in range(-(-pool_tokens // block_tokens), len(blocks)):
            block = blocks[position]
            mask = slow.get(block, 0) | shared.get(block, 0)
            if not mask:
                break
            counts[_FASTEST[mask]] += block_tokens
        left = request.prompt_tokens - 1 - pool_tokens
        found: list[tuple[str, int]] = []
        cached_tokens = pool_tokens
        work = 0.0
        for tier, count in enumerate(counts):
            tokens = min(count, left)
            if tokens > 0:
                left -= tokens
                cached_tokens += tokens
                work += tokens * self.shares[tier]
                found.append((TIERS[tier], tokens))
        return Loads(cached_tokens, tuple(found), work_tokens=int(work)) if found else None

    def learn(self, loads: Loads, waited_tokens: float, computed_tokens: int) -> None:
        """From dispatch to its first token, a prompt that loads took the time of so many tokens' work, of which its
        instance computed so many. Where that is more than it loaded, it tells nothing of loading."""
        name, most = max(loads.tokens, key=lambda of_tier: of_tier[1])
        if most < max(LEAST_LOADED, computed_tokens):
            return
        tier = tier_of(name)
        others = sum([tokens * self.shares[tier_of(other)] for other, tokens in loads.tokens if other != name])
        share, known = (waited_tokens - computed_tokens - others) / most, self.shares[tier]
        likely = min(max(share, known / MOST_CHANGE), known * MOST_CHANGE)
        self.shares[tier] = min(max(likely, LEAST_SHARE), 1.0)  # at the worst they count as if they were not there
