"""The instance with the smallest estimated TTFT, its cached prefix taken into account; all are looked at.

Source: Mooncake, arXiv 2407.00079, section 6 (cache-aware prefill scheduling, algorithm 1): the TTFT of each instance
is its queueing time plus the prefill time of what it has not cached, and the smallest wins. Without the transfer of
cached blocks between instances, which needs its own storage, and without its early rejection.
"""

from collections.abc import Set

from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request
from dualmap.scheduler.ttft_estimate import TtftEstimate


class MinTtft(TiesInTurn):
    """Ties go to fewer requests, then to the least recently chosen."""

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
        return None if best is None else self._chosen(best)
