"""The instance with the fewest requests, dispatched at once: what a least-connections balancer does."""

from collections.abc import Set

from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request


class LeastLoaded(TiesInTurn):
    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        usable = self._usable(avoid)
        if not usable:
            return None
        return self._chosen(min(usable, key=lambda v: v.running_count + v.waiting_count).estimate_ttft(request))
