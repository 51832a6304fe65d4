"""Fleet's board of bookings: each gateway puts up what it has booked, and is told what the others have."""

from collections.abc import Iterator
from typing import NamedTuple

from dualmap.scheduler.events import GatewayLoads, InstanceLoad
from dualmap.scheduler.fleet.messages import GatewayReport, GatewayState
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.prompt_log import PromptLog
from dualmap.scheduler.gateway_loads import summed
from dualmap.scheduler.held_requests import HeldWork

SILENT_S = 3.0  # a gateway that has not been heard of for so long is gone, and what it carried with it
MAX_BLOCKS_KEPT = (
    500_000  # of prompts; a gateway that is further behind misses some of what others have in their caches
)


class _Numbered(NamedTuple):
    """told: what the other gateways are told of the prompt: its instance, what that holds of it."""

    number: int
    gateway_id: str
    told: tuple[str, tuple[int, ...]]

    @property
    def block_count(self) -> int:
        return len(self.told[1])


class LoadBoard:
    """Prompts bear numbers that only grow, also from one Fleet to the next; a gateway says the last one it knows."""

    def __init__(self, first_number: int) -> None:
        """first_number: above 0, and above all that the board before this one has given."""
        self._number = first_number
        self._reports: dict[str, tuple[float, GatewayReport]] = {}  # when it came, by gateway
        self._sent: PromptLog[_Numbered] = PromptLog(MAX_BLOCKS_KEPT)
        self._totals: dict[str, PoolTotals] = {}

    def put(self, report: GatewayReport, now: float) -> None:
        before = self._reports.get(report.gateway_id)
        self._reports[report.gateway_id] = (now, report)
        self._count(report.totals, before[1].totals if before else report.totals)
        for sent in report.sent:
            if sent.blocks:
                self._number += 1
                self._sent.append(_Numbered(self._number, report.gateway_id, (sent.instance_id, sent.blocks)))
        self._reports = {i: (at, known) for i, (at, known) in self._reports.items() if now - at <= SILENT_S}

    def others(self, gateway_id: str, heard: int, now: float) -> tuple[GatewayLoads | None, int]:
        """What all but this gateway have booked and, after the number heard, sent; and the number up to which that is.
        None if it is the only one. The age is that of the oldest report."""
        known = [(at, report) for i, (at, report) in self._reports.items() if i != gateway_id]
        if not known:
            return None, self._number
        age_s = now - min(at for at, _ in known)
        loads = summed(load for _, report in known for load in report.loads)
        return GatewayLoads(loads, tuple(self._sent_since(gateway_id, heard)), age_s), self._number

    def _sent_since(self, gateway_id: str, heard: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """In the order they were sent. One that has heard nothing yet is not told what is long gone."""
        if not heard:
            return
        news: list[tuple[str, tuple[int, ...]]] = []
        for number, sender, sent in reversed(self._sent):
            if number <= heard:
                break
            if sender != gateway_id:
                news.append(sent)
        yield from reversed(news)

    def loads(self) -> dict[str, InstanceLoad]:
        """Of all gateways together, by instance."""
        reports = [report for _, report in self._reports.values()]
        return {load.instance_id: load for load in summed(load for report in reports for load in report.loads)}

    def held(self) -> dict[str, HeldWork]:
        """Of all gateways together, by pool."""
        held: dict[str, HeldWork] = {}
        for _, report in self._reports.values():
            for pool, work in report.held.items():
                held[pool] = held.get(pool, HeldWork()) + work
        return held

    def gateways(self, now: float) -> tuple[GatewayState, ...]:
        return tuple(
            GatewayState(i, report.epoch, report.admin, age_s=now - at, leaving=report.leaving)
            for i, (at, report) in sorted(self._reports.items())
            if now - at <= SILENT_S
        )

    def totals(self) -> dict[str, PoolTotals]:
        """By pool, since this board was made."""
        return dict(self._totals)

    def _count(self, now: dict[str, PoolTotals], before: dict[str, PoolTotals]) -> None:
        """Add what came since a gateway's last report; one that was restarted counts from 0 again."""
        for pool, totals in now.items():
            old = before.get(pool, PoolTotals())
            if old.arrived > totals.arrived:
                old = PoolTotals()
            self._totals[pool] = self._totals.get(pool, PoolTotals()) + (totals - old)
