"""The instance with the smallest estimated TTFT, its cached prefix taken into account; all are looked at.

Source: Mooncake, arXiv 2407.00079, section 6 (cache-aware prefill scheduling, algorithm 1): the TTFT of each instance
is its queueing time plus the prefill time of what it has not cached, and the smallest wins. Without the transfer of
cached blocks between instances, which needs its own storage, and without its early rejection.
"""

from collections.abc import Set

from scheduler.instance_view import InstanceView
from scheduler.placement import Placement
from scheduler.request import ChoiceReason, Request
from scheduler.ttft import TtftEstimate


class MinTtft:
    """Ties go to fewer requests, then to the least recently chosen."""

    holds_requests = False

    def __init__(self) -> None:
        self._views: dict[str, InstanceView] = {}  # least recently chosen first

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        best: TtftEstimate | None = None
        for instance_id, view in self._views.items():
            if instance_id in avoid:
                continue
            estimate = view.estimate_ttft(request)
            if (
                best is None
                or estimate.total_s < best.total_s
                or (estimate.total_s == best.total_s and estimate.running < best.running)
            ):
                best = estimate
        if best is None:
            return None
        self._views[best.instance_id] = self._views.pop(best.instance_id)
        return Placement(best, (best.instance_id,), ChoiceReason.POLICY)
