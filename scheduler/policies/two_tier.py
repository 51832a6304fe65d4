"""Dynamo's two-tier cost function, once cache_aware_zmq of SGLang's router: balance first, then the cache.

Source: ai-dynamo/dynamo lib/router-plugins/builtin/src/two_tier_cost_fn.rs, whose defaults are those of
sgl-project/sglang experimental/sgl-router. Where the longest and the shortest queue differ by more than
BALANCE_ABS_THRESHOLD and the longest is more than BALANCE_REL_THRESHOLD times the shortest, the shortest queue. Else,
where some instance holds more than CACHE_THRESHOLD of the prompt's blocks, the shortest queue among those that hold the
most. Else the shortest queue. Queue: requests active there. Ties by the order of candidates there, least recently
chosen here. Blocks held in a tier behind the pool, weighted there, are held for the core's cache view.
"""

from collections.abc import Set

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

BALANCE_ABS_THRESHOLD = 32
BALANCE_REL_THRESHOLD = 1.1
CACHE_THRESHOLD = 0.5


class TwoTier(TiesInTurn):
    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._usable(avoid)
        if not views:
            return None
        blocks = request.blocks
        shortest, longest = min(views, key=_queue), max(map(_queue, views))
        chosen = shortest
        if not _unbalanced(_queue(shortest), longest):
            held = [view.cache.held_blocks(blocks) for view in views]
            most = max(held)
            if most > CACHE_THRESHOLD * len(blocks):
                chosen = min((v for v, h in zip(views, held, strict=True) if h == most), key=_queue)
        return self._chosen(chosen.estimate_ttft(request))


def _queue(view: InstanceView) -> int:
    return len(view.running)


def _unbalanced(shortest: int, longest: int) -> bool:
    return longest - shortest > BALANCE_ABS_THRESHOLD and longest > BALANCE_REL_THRESHOLD * shortest
