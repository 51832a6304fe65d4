"""A journal in memory: the records of a core in virtual time."""

from typing import Any

from dualmap.router.journal.format import Record
from dualmap.scheduler.commands import Command
from dualmap.scheduler.events import Event


class Recorder:
    """In place of the core it wraps: keeps the records that a journal would have. check_every: events between two looks
    at whether the core's books contradict themselves; 0: none."""

    def __init__(self, core: Any, check_every: int = 0) -> None:
        self._core = core
        self._check_every = check_every
        self.records: list[Record] = []

    def handle(self, event: Event, now: float) -> list[Command]:
        """Raises AssertionError as Scheduler.check does."""
        commands: list[Command] = self._core.handle(event, now)
        self.records.append(Record(now, event, tuple(commands)))
        if self._check_every and len(self.records) % self._check_every == 0:
            self._core.check()
        return commands
