"""The instance with the fewest requests, dispatched at once: what a least-connections balancer does."""

from collections.abc import Set

from scheduler.instance_view import InstanceView
from scheduler.placement import Placement
from scheduler.request import ChoiceReason, Request


class LeastLoaded:
    """Looks at every instance. Ties go to the one least recently chosen, or an idle fleet would use one instance
    only."""

    holds_requests = False

    def __init__(self) -> None:
        self._views: dict[str, InstanceView] = {}  # least recently chosen first

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        usable = [view for instance_id, view in self._views.items() if instance_id not in avoid]
        if not usable:
            return None
        view = min(usable, key=lambda v: v.running_count + v.waiting_count)
        self._views[view.instance_id] = self._views.pop(view.instance_id)
        return Placement(view.estimate_ttft(request), (view.instance_id,), ChoiceReason.POLICY)
