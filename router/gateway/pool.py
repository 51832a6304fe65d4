"""A pool of instances that serve the same models: rings, objective and books of its own."""

from dualmap.router.journal.writer import Core, JournaledScheduler, JournalWriter
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import PrefixDepths


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
