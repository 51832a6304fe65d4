"""Reading a journal and giving its events to a fresh scheduler, which must answer as the first one did."""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dualmap.router.journal.format import (
    End,
    Header,
    JournalError,
    Record,
    decode_header,
    decode_line,
    describe_error,
)
from dualmap.scheduler.commands import Command
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.events import RequestArrived

_CHUNK_BYTES = 256 * 1024
_GZIP_WBITS = 31


class JournalReader:
    """Raises JournalError as it is made, or as its records are read, once.

    line: number of the line read last, from 1. share: of the file that has been read. note: how the file ends, if that
    is worth a word.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.share = 0.0
        self.note = ""
        self._lines = self._read_lines()
        try:
            self.header: Header = decode_header(next(self._lines, b""))
        except (msgspec.MsgspecError, ValueError, ConfigError) as error:
            raise JournalError(f"{path}: line {max(self.line, 1)}: no header: {error}") from None

    def records(self) -> Iterator[Record]:
        for line in self._lines:
            try:
                record = decode_line(line)
            except (msgspec.MsgspecError, ValueError, ConfigError) as error:
                raise JournalError(f"{self.path}: line {self.line}: {error}") from None
            if isinstance(record, End):
                self.note = "" if record.end == "stopped" else f"the journal ends early: {record.end}"
                return
            yield record
        if not self.note:
            self.note = "the journal has no last record: its writer was killed, or still writes"

    def _read_lines(self) -> Iterator[bytes]:
        """Complete lines; what a crash left of another one is told in the note."""
        rest = b""
        for data in self._read_data():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.line += 1
                yield line
        if rest:
            self.note = f"line {self.line + 1} is cut off: left out, with whatever came after it"

    def _read_data(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                total = self.path.stat().st_size or 1
                inflate = zlib.decompressobj(_GZIP_WBITS) if self.path.suffix == ".gz" else None
                while data := file.read(_CHUNK_BYTES):
                    self.share = min(1.0, file.tell() / total)
                    yield inflate.decompress(data) if inflate else data
        except OSError as error:
            raise JournalError(f"{self.path}: {error.strerror or error}") from None
        except zlib.error as error:
            raise JournalError(f"{self.path}: after line {self.line}: damaged gzip data: {error}") from None


@dataclass(frozen=True, slots=True)
class Difference:
    """An event that got another answer than the journal has. number: of the event, from 1."""

    number: int
    line: int
    record: Record
    commands: tuple[Command, ...]
    error: str


@dataclass(slots=True)
class Replay:
    """What came of a replay. duration_s: from the first event to the last. cpu_s: spent in the scheduler."""

    events: int = 0
    commands: int = 0
    requests: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0
    differing: int = 0
    first: Difference | None = None


def replay(
    reader: JournalReader,
    config: SchedulerConfig | None = None,
    *,
    until: int | None = None,
    stop_at_difference: bool = True,
    progress: Callable[[Replay], None] | None = None,
) -> Replay:
    """config: other than the recorded one. until: events to replay. Raises JournalError."""
    core = Scheduler(config or reader.header.config)
    done = Replay()
    started_t: float | None = None
    for record in reader.records():
        if until is not None and done.events >= until:
            reader.note = ""
            break
        started_t = record.t if started_t is None else started_t
        before = time.process_time()
        commands, error = handle_again(core, record)
        done.cpu_s += time.process_time() - before
        done.events += 1
        done.commands += len(commands)
        done.requests += isinstance(record.event, RequestArrived)
        done.duration_s = record.t - started_t
        if commands != record.commands or error != record.error:
            done.differing += 1
            done.first = done.first or Difference(done.events, reader.line, record, commands, error)
            if stop_at_difference:
                break
        if progress is not None:
            progress(done)
    return done


def handle_again(core: Scheduler, record: Record) -> tuple[tuple[Command, ...], str]:
    """What the core does with a recorded event: its commands, or the error that it raises."""
    try:
        return tuple(core.handle(record.event, record.t)), ""
    except Exception as error:  # one that was raised when it was recorded, too, is no difference
        return (), describe_error(error)
