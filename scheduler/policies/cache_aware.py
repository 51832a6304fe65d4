"""SGLang's cache_aware, kept by vllm-router and SMG: by prefix while the loads are balanced, else the shortest queue.

Source: sgl-project/sglang sgl-model-gateway/src/policies/cache_aware.rs and tree.rs; vllm-project/router
src/policies/cache_aware.rs; as of 2026. Balanced: the longest and the shortest queue differ by at most
BALANCE_ABS_THRESHOLD, or the longest is at most BALANCE_REL_THRESHOLD times the shortest. Then the instance that was
given the longest prefix of the prompt, if that is more than CACHE_THRESHOLD of it, else the shortest queue. Early
versions, and the head comment to this day, take the instance with the smallest tree for the latter.
"""

from collections.abc import Set

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.placed_blocks import PlacedBlocks
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

# Defaults of the command line (router_args.py); those of the library are 0.5, 32 and 1.1.
CACHE_THRESHOLD = 0.3
BALANCE_ABS_THRESHOLD = 64  # requests in flight
BALANCE_REL_THRESHOLD = 1.5
# max_tree_size = 2**26 characters of each worker, at 4 characters a token and 512 tokens a block. The source evicts
# every 60 s (120 s in earlier versions), this at once.
MAX_TREE_BLOCKS = 2**26 // (4 * 512)


class CacheAware(TiesInTurn):
    """Load: requests in flight. Ties go to the instance least recently chosen.

    smallest_tree: a prompt that matches little goes to the instance with the fewest blocks, as in early versions.
    """

    def __init__(self, *, smallest_tree: bool = False) -> None:
        super().__init__()
        self._smallest_tree = smallest_tree
        self._placed = PlacedBlocks()

    def add(self, view: InstanceView) -> None:
        super().add(view)
        self._placed.add(view.instance_id, MAX_TREE_BLOCKS)

    def remove(self, view: InstanceView) -> None:
        super().remove(view)
        self._placed.remove(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        shortest: InstanceView | None = None
        longest = 0
        for instance_id, view in self._views.items():
            if instance_id in avoid:
                continue
            load = len(view.running)
            longest = max(longest, load)
            if shortest is None or load < len(shortest.running):
                shortest = view
        if shortest is None:
            return None
        least = len(shortest.running)
        view = shortest
        if longest - least <= BALANCE_ABS_THRESHOLD or longest <= BALANCE_REL_THRESHOLD * least:
            depth, holders = self._placed.match(request.blocks, avoid)
            if depth and depth > CACHE_THRESHOLD * len(request.blocks):
                view = self._views[holders[-1]]  # of several the one that had it last, as in the source's tree
            elif self._smallest_tree:
                view = min(self._usable(avoid), key=lambda v: self._placed.size(v.instance_id))
        self._placed.insert(request.blocks, view.instance_id)
        return self._chosen(view.estimate_ttft(request))
