"""Ready instances in the order of their load: the coolest and the hottest are found without looking at all."""

from bisect import insort
from collections.abc import Collection, Container, Iterator
from typing import Generic, Protocol, TypeVar

RUNNING_S = 0.02  # about a step of the engine, which each request that runs may take part in
BUSY_BACKLOG_S = 1.0  # from which an instance counts as busy
ROUNDING = 1e-6  # share by which sums that are kept up may differ from sums made anew

_Load = tuple[float, str, float]  # seconds of load, instance id, seconds of backlog


class Loaded(Protocol):
    """load_s: as load_of says."""

    instance_id: str
    load_s: float

    @property
    def backlog_s(self) -> float: ...

    @property
    def booked_running(self) -> int: ...


def load_of(backlog_s: float, running: int) -> float:
    """Seconds by which an instance is compared."""
    return backlog_s + RUNNING_S * running


L = TypeVar("L", bound=Loaded)


class LoadOrder(Generic[L]):
    """Sorted by (load_s, instance id): seconds of backlog, and a little for each request that runs there. Each instance
    tells it when one of these has changed: O(log n) and a memory move.

    waiting: requests that wait in the gateway, for whichever instance. rivals: where other gateways send to these
    instances, too, and say so late: how many prompts they sent before they last did; None elsewhere.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.rivals: int | None = None
        self._order: list[_Load] = []
        self._views: dict[str, L] = {}
        self._loads: dict[str, _Load] = {}
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

    def mean_s_of(self, some: Collection[str] | None) -> float:
        """The same of these instances; None: of all."""
        return self.mean_s if some is None else sum(self._loads[i][-1] for i in some) / max(1, len(some))

    def busy_of(self, some: Collection[str] | None) -> float:
        """The same of these instances; None: of all."""
        if some is None:
            return self.busy
        busy_s = 0.0
        for instance_id in some:
            backlog_s = self._loads[instance_id][2]
            busy_s += backlog_s if backlog_s < BUSY_BACKLOG_S else BUSY_BACKLOG_S
        return max(0.0, busy_s) / (BUSY_BACKLOG_S * max(1, len(some)))

    def add(self, view: L) -> None:
        backlog_s = view.backlog_s
        load_s = view.load_s = load_of(backlog_s, view.booked_running)
        load = self._loads[view.instance_id] = (load_s, view.instance_id, backlog_s)
        self._views[view.instance_id] = view
        insort(self._order, load)
        self._count(load[-1], 0.0)

    def remove(self, view: L) -> None:
        del self._views[view.instance_id]
        load = self._loads.pop(view.instance_id)
        del self._order[self._place(load[0], load[1])]
        self._count(0.0, load[-1])
        if not self._order:
            self._total_s = self._busy_s = 0.0  # no rounding is left over

    def changed(self, view: L, instance_id: str, load_s: float, backlog_s: float) -> None:
        """Its load may be another: it is this now. An instance that is not ready is none of ours."""
        old = self._loads.get(instance_id)
        if old is None or self._views[instance_id] is not view:
            return
        old_s = old[2]
        if load_s != old[0] or backlog_s != old_s:
            new = self._loads[instance_id] = (load_s, instance_id, backlog_s)
            del self._order[self._place(old[0], instance_id)]
            self._order.insert(self._place(load_s, instance_id), new)
            if backlog_s != old_s:
                self._count(backlog_s, old_s)

    def _place(self, load_s: float, instance_id: str) -> int:
        """Where such a load stands in the order, or belongs. As bisect_left would find it, which makes objects of each
        pair that it compares."""
        order = self._order
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) >> 1
            load = order[middle]
            if load[0] < load_s or (load[0] == load_s and load[1] < instance_id):
                low = middle + 1
            else:
                high = middle
        return low

    def _count(self, new_s: float, old_s: float) -> None:
        self._total_s += new_s - old_s
        self._busy_s += min(new_s, BUSY_BACKLOG_S) - min(old_s, BUSY_BACKLOG_S)

    def at(self, place: int) -> L:
        """The one in this place of the order, of which the first has the least load."""
        return self._views[self._order[place][1]]

    def coolest(self, among: Container[str] | None = None) -> Iterator[L]:
        """Least load first; among: of these instances, None: of all."""
        for _, instance_id, _ in self._order:
            if among is None or instance_id in among:
                yield self._views[instance_id]

    def hottest(self, among: Container[str] | None = None) -> Iterator[L]:
        """Most load first; among: as in coolest."""
        for _, instance_id, _ in reversed(self._order):
            if among is None or instance_id in among:
                yield self._views[instance_id]

    def check(self, ready: Collection[L], waiting: int) -> None:
        """Raise AssertionError where these are not the ready instances with their loads, or so many do not wait."""
        assert self.waiting == waiting, "how many wait"
        loads_s = ((load_of(v.backlog_s, v.booked_running), v.instance_id, v.backlog_s) for v in ready)
        loads = {load[1]: load for load in loads_s}
        assert self._views == {view.instance_id: view for view in ready}, "instances that are ready"
        assert self._loads == loads, "loads"
        assert self._order == sorted(loads.values()), "order of loads"
        assert all(view.load_s == loads[view.instance_id][0] for view in ready), "load_s"
        total_s = sum(load[-1] for load in loads.values())
        assert abs(self._total_s - total_s) <= ROUNDING * (1.0 + total_s), "seconds of backlog"
        busy_s = sum(min(load[-1], BUSY_BACKLOG_S) for load in loads.values())
        assert abs(self._busy_s - busy_s) <= ROUNDING * (1.0 + busy_s), "busy instances"
