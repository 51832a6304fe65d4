"""Instances in the order in which they were chosen: without it, an idle fleet would use one instance only."""

from collections.abc import Set

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.ttft_estimate import TtftEstimate


class TiesInTurn:
    """A policy that looks at every instance, in this order: the first of several that are equally good is the one least
    recently chosen. Dispatches at once."""

    holds_requests = False

    def __init__(self) -> None:
        self._views: dict[str, InstanceView] = {}  # least recently chosen first

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]

    def _usable(self, avoid: Set[str]) -> list[InstanceView]:
        return [view for instance_id, view in self._views.items() if instance_id not in avoid]

    def _chosen(self, estimate: TtftEstimate) -> Placement:
        """At the estimate's instance."""
        instance_id = estimate.instance_id
        self._views[instance_id] = self._views.pop(instance_id)
        return Placement(estimate, (instance_id,), ChoiceReason.POLICY)
