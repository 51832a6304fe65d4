"""Ray Serve's PrefixCacheAffinityRouter: the replicas with the highest prefix match, of these the shortest queue.

Source: ray-project/ray (2.5x) python/ray/llm/_internal/serve/routing_policies/prefix_aware/: prefix_aware_router.py,
whose `initialize_state` has the defaults, and prefix_tree.py. While the longest and the shortest queue differ by no
more than IMBALANCED_THRESHOLD: the replicas that were given the longest prefix of the prompt, or, where that is less
than MATCH_RATE_THRESHOLD of it, those with the smallest trees; else, power of two choices. Of the replicas named the
one with the shortest queue takes the request.
"""

from collections.abc import Sequence, Set
from math import inf

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.placed_blocks import PlacedBlocks
from dualmap.scheduler.policies.power_of_two import two_at_random
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

SEED = 0x72617970  # "rayp"
IMBALANCED_THRESHOLD = inf  # difference in queue lengths; the default never falls back
MATCH_RATE_THRESHOLD = 0.1
# Ray's tree grows without end unless do_eviction is set; then down to 360,000 characters once it has 400,000, which is
# less than one long prompt an instance at 4 characters a token. Bounded here, so wide that it decides nothing.
MAX_BLOCKS = 65_536


class RayPrefixAffinity(TiesInTurn):
    """imbalanced_threshold: another than Ray's default. Ties go to the instance least recently chosen."""

    def __init__(self, imbalanced_threshold: float = IMBALANCED_THRESHOLD) -> None:
        super().__init__()
        self._imbalanced_threshold = imbalanced_threshold
        self._placed = PlacedBlocks()

    def add(self, view: InstanceView) -> None:
        super().add(view)
        self._placed.add(view.instance_id, MAX_BLOCKS)

    def remove(self, view: InstanceView) -> None:
        super().remove(view)
        self._placed.remove(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._usable(avoid)
        if not views:
            return None
        queues = [len(v.running) for v in views]
        if max(queues) - min(queues) <= self._imbalanced_threshold:
            named: Sequence[InstanceView] = self._named_by_prefix(request, views, avoid)
        else:
            named = two_at_random(request, SEED, views) if len(views) > 2 else views
        chosen = named[0]
        for view in named:
            if len(view.running) < len(chosen.running):
                chosen = view
        self._placed.insert(request.blocks, chosen.instance_id)
        return self._chosen(chosen.estimate_ttft(request))

    def _named_by_prefix(self, request: Request, views: list[InstanceView], avoid: Set[str]) -> list[InstanceView]:
        depth, holders = self._placed.match(request.blocks, avoid)
        if depth and depth >= MATCH_RATE_THRESHOLD * len(request.blocks):
            return [v for v in views if v.instance_id in holders]
        sizes = [self._placed.size(v.instance_id) for v in views]
        smallest = min(sizes)
        return [v for v, size in zip(views, sizes, strict=True) if size == smallest]
