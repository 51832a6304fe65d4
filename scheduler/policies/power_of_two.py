"""Of two instances drawn at random, the one with fewer requests in flight.

Source: M. Mitzenmacher, The power of two choices in randomized load balancing, IEEE TPDS 12(10), 2001, as LLM routers
do it (sgl-project/sglang sgl-model-gateway/src/policies/power_of_two.rs: load is the count of requests in flight, the
first drawn wins ties). The draw is a hash of the request's id, so that a run can be replayed.
"""

from collections.abc import Sequence, Set

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.views_by_id import ViewsById
from dualmap.scheduler.request import ChoiceReason, Request

SEED = 0x706F7732  # "pow2"


class PowerOfTwo(ViewsById):
    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = [v for v in self._views if v.instance_id not in avoid] if avoid else self._views
        if not views:
            return None
        view = views[0]
        if len(views) > 1:
            view, other = two_at_random(request, SEED, views)
            if len(other.running) < len(view.running):
                view = other
        return Placement(view.estimate_ttft(request), (view.instance_id,), ChoiceReason.POLICY)


def two_at_random(request: Request, seed: int, views: Sequence[InstanceView]) -> tuple[InstanceView, InstanceView]:
    """Of two or more."""
    draw = xxh3_64_intdigest(request.id.encode(), seed)
    first = draw % len(views)
    second = (first + 1 + (draw >> 32) % (len(views) - 1)) % len(views)  # another one than the first
    return views[first], views[second]
