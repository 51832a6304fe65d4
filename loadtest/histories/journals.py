"""The histories of a run: the journals of its gateways, each read and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualmap.loadtest.histories.books import open_faults, replayed
from dualmap.loadtest.histories.faults import Fault
from dualmap.loadtest.histories.lives import Lives, lives_of
from dualmap.router.journal.format import JournalError, Record
from dualmap.router.journal.replay import JournalReader
from dualmap.scheduler.config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class History:
    """closed: its gateway ended it; else it was killed, and the last second of what it did may be missing."""

    name: str
    config: SchedulerConfig
    records: Sequence[Record]
    closed: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """What a history tells of its requests, and all that is wrong with it."""

    name: str
    closed: bool
    lives: Lives
    faults: list[Fault]


def read_history(path: Path) -> History:
    """Raises JournalError."""
    reader = JournalReader(path)
    records = []
    note = ""
    try:
        for record in reader.records():
            records.append(record)
    except JournalError as error:
        note = str(error)  # a killed gateway's gzip file ends anywhere
    return History(path.name, reader.header.config, records, closed=not (note or reader.note))


def judge(history: History) -> Judged:
    lives = lives_of(history.records, history.name)
    core, faults = replayed(history.records, history.config, history.name)
    if history.closed:
        faults += open_faults(core, history.name)
    return Judged(history.name, history.closed, lives, [*lives.faults, *faults])
