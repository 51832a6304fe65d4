"""Ready instances in the order of their backlog: the coolest and the hottest are found without looking at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.instance_view import InstanceView

BUSY_BACKLOG_S = 1.0  # from which an instance counts as busy


class LoadOrder:
    """Sorted by (seconds of backlog, instance id). Each view tells it when its backlog has changed: O(log n) and a
    memory move.

    waiting: requests that wait in the gateway, for whichever instance. rivals: where other gateways send to these
    instances, too, and say so late: how many prompts they sent before they last did; None elsewhere.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.rivals: int | None = None
        self._order: list[tuple[float, str]] = []
        self._views: dict[str, InstanceView] = {}
        self._backlogs: dict[str, float] = {}
        self._total_s = 0.0
        self._busy_s = 0.0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def mean_s(self) -> float:
        """Seconds of backlog of an instance, on average."""
        return max(0.0, self._total_s) / len(self._order) if self._order else 0.0

    @property
    def busy(self) -> float:
        """How busy the cluster is, 0 to 1: the mean of its instances, of which each counts as one at the most. A few
        hot ones do not make a busy cluster, however much waits there."""
        return max(0.0, self._busy_s) / (BUSY_BACKLOG_S * len(self._order)) if self._order else 0.0

    def add(self, view: InstanceView) -> None:
        instance_id, backlog_s = view.instance_id, view.backlog_s
        self._views[instance_id] = view
        self._backlogs[instance_id] = backlog_s
        insort(self._order, (backlog_s, instance_id))
        self._total_s += backlog_s
        self._busy_s += min(backlog_s, BUSY_BACKLOG_S)

    def remove(self, view: InstanceView) -> None:
        instance_id = view.instance_id
        del self._views[instance_id]
        backlog_s = self._backlogs.pop(instance_id)
        del self._order[bisect_left(self._order, (backlog_s, instance_id))]
        self._total_s = self._total_s - backlog_s if self._order else 0.0  # no rounding is left over
        self._busy_s = self._busy_s - min(backlog_s, BUSY_BACKLOG_S) if self._order else 0.0

    def changed(self, view: InstanceView) -> None:
        """Its backlog may be another. An instance that is not ready is none of ours."""
        instance_id = view.instance_id
        old_s = self._backlogs.get(instance_id)
        if old_s is None or self._views[instance_id] is not view:
            return
        new_s = view.backlog_s
        if new_s != old_s:
            self._backlogs[instance_id] = new_s
            order = self._order
            del order[bisect_left(order, (old_s, instance_id))]
            insort(order, (new_s, instance_id))
            self._total_s += new_s - old_s
            self._busy_s += min(new_s, BUSY_BACKLOG_S) - min(old_s, BUSY_BACKLOG_S)

    def coolest(self) -> Iterator[InstanceView]:
        """Least backlog first."""
        return (self._views[instance_id] for _, instance_id in self._order)

    def hottest(self) -> Iterator[InstanceView]:
        """Most backlog first."""
        return (self._views[instance_id] for _, instance_id in reversed(self._order))
