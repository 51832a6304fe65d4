"""A pool of instances that serve the same models: rings, objective and books of its own."""

from dualmap.router.journal.writer import Core, JournaledScheduler, JournalWriter
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import PrefixDepths
from dualmap.scheduler.fleet.messages import PoolTotals


class Pool:
    """name: empty for the only one there is, or the first. core: where its events go. depths: that all gateways agreed
    on."""

    def __init__(self, name: str, scheduler: Scheduler, journal: JournalWriter | None = None) -> None:
        """journal: is told every event."""
        self.name = name
        self.scheduler = scheduler
        self.journal = journal
        self.core: Core = scheduler if journal is None else JournaledScheduler(scheduler, journal)
        self.depths: PrefixDepths | None = None

    def totals(self) -> PoolTotals:
        """Counters since the start."""
        stats = self.scheduler.stats
        return PoolTotals(
            arrived=stats.arrived,
            arrived_work_tokens=stats.arrived_work_tokens,
            slo_kept=stats.slo_kept,
            slo_missed=stats.slo_missed,
            tpot_kept=stats.tpot_kept,
            tpot_missed=stats.tpot_missed,
        )
