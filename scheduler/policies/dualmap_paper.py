"""DualMap as published (arXiv 2602.06502, ICLR 2026), to compare ours with.

Two rings name two candidates for the prefix (3.1), whose length follows its popularity (3.2); the candidate with the
longer cached prefix takes the request while its estimated TTFT keeps half the SLO, else the sooner one does (3.3);
instances with a backlog above half the SLO give waiting requests to their other candidate (3.4, by plan_rebalance with
the configuration of `as_published`).
"""

from collections import deque
from collections.abc import Set
from dataclasses import replace

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.block_uses import remove_uses
from dualmap.scheduler.request import ChoiceReason, Request

WINDOW = 200  # requests over which a prefix's share is taken, at any number of instances
HOT_SHARE = 0.06  # of those; a prefix with more is made longer by a block, one that falls below is made shorter again
SLO_FRACTION = 0.5  # of the SLO: beyond it a request leaves its warm candidate, and an instance is hot


RELEASE_WINDOW_S = 1.3  # a full step of 8192 tokens: the engine batches what is released


def as_published(config: SchedulerConfig) -> SchedulerConfig:
    """The configuration with what the core does beyond, or otherwise than, the paper switched off."""
    return replace(
        config,
        hot_slo_fraction=SLO_FRACTION,
        recompute_price_idle=0.0,
        recompute_price_busy=0.0,
        deadline_order=False,
        taking=False,
        release_window_s=RELEASE_WINDOW_S,
    )


class PaperKeys:
    """The adaptive key: one block, and one more as long as the prefix is hot. Bounded by the window."""

    def __init__(self) -> None:
        self._window: deque[tuple[int, ...]] = deque()  # the prefixes each recent request was counted under
        self._counts: dict[int, int] = {}  # prefix -> requests in the window that have it

    def __len__(self) -> int:
        return len(self._counts)

    def observe(self, blocks: tuple[int, ...]) -> int:
        """The key of a prompt with at least one block, this request counted."""
        counts = self._counts
        limit = HOT_SHARE * WINDOW
        depth = 0
        for block in blocks:
            depth += 1
            counts[block] = count = counts.get(block, 0) + 1
            if count <= limit:
                break
        self._window.append(blocks[:depth])
        if len(self._window) > WINDOW:
            remove_uses(counts, self._window.popleft())
        return blocks[depth - 1]


class DualMapPaper:
    def __init__(self, config: SchedulerConfig) -> None:
        self.holds_requests = config.gateway_queue
        self._rings = DualRing(config.virtual_nodes)
        self._keys = PaperKeys()
        self._views: dict[str, InstanceView] = {}

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view
        self._rings.add(view.instance_id, view.capacity.ring_weight)

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]
        self._rings.remove(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        if chain := request.chain:
            key = self._keys.observe(chain)
        else:
            key = xxh3_64_intdigest(request.id.encode())  # no prefix to reuse: any two instances will do
        candidates = self._rings.candidates(key, avoid)
        if not candidates:
            return None
        first = self._views[candidates[0]].estimate_ttft(request)
        if len(candidates) == 1:
            return Placement(first, candidates, ChoiceReason.ONLY_ONE)
        second = self._views[candidates[1]].estimate_ttft(request)
        sooner = second if (second.total_s, second.running) < (first.total_s, first.running) else first
        if first.cached_tokens == second.cached_tokens:
            return Placement(sooner, candidates, ChoiceReason.BALANCED)
        warm = first if first.cached_tokens > second.cached_tokens else second
        if warm is sooner or warm.total_s <= SLO_FRACTION * slo_s:
            return Placement(warm, candidates, ChoiceReason.WARM)
        return Placement(sooner, candidates, ChoiceReason.SWITCHED)
