"""Each instance in turn, dispatched at once: what a plain load balancer does."""

from collections.abc import Set

from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.views_by_id import ViewsById
from dualmap.scheduler.request import ChoiceReason, Request


class RoundRobin(ViewsById):
    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        for _ in self._views:
            view = self._views[self._next % len(self._views)]
            self._next = (self._next + 1) % len(self._views)
            if view.instance_id not in avoid:
                return Placement(view.estimate_ttft(request), (view.instance_id,), ChoiceReason.POLICY)
        return None
