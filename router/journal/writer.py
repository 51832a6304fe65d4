"""Writing a journal: every event the core is told, and the commands it gives. `dualmap replay-journal` reads it.

Nothing here holds up a request: lines are collected in memory and written by a thread, and whatever goes wrong stops
the journal, with one line in the log.
"""

import gzip
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import IO, cast

from dualmap.router.journal.format import Record, describe_error, encode_end, encode_header, encode_record
from dualmap.scheduler.commands import Command
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import Event

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 1024**3  # about a million requests
FLUSH_BYTES = 64 * 1024
FLUSH_INTERVAL_S = 1.0  # what a killed process loses of its journal
MAX_UNWRITTEN_BYTES = 16 * 1024**2  # a disk that hangs must not fill the memory
MAX_SAME_NAMES = 1000
CLOSE_TIMEOUT_S = 5.0
FULL = "max_bytes reached"
STOPPED = "stopped"


class JournalWriter:
    """One file, gzipped if its name ends in .gz. An existing file is kept: the name gets a number.

    path: the file in use. max_bytes: before compression; a last record says that it was reached. about: anything worth
    knowing about the run. No method raises.
    """

    def __init__(
        self,
        path: Path,
        config: SchedulerConfig,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.written_bytes = 0  # handed to the thread
        self.stopped = ""  # why nothing is written any more
        self._done_bytes = 0  # written by the thread; each of the two counters has one writer
        self._room = max_bytes - len(encode_end(FULL))
        self._next_flush = float("-inf")
        self._chunks: SimpleQueue[bytes | None] = SimpleQueue()
        self._buffer = bytearray(encode_header(config, about or {}))
        self._thread: threading.Thread | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path, file = _create(path)
        except OSError as error:
            self._stop(f"cannot write {path}: {error.strerror or error}")
            return
        self._thread = threading.Thread(target=self._write_chunks, args=(file,), name="journal", daemon=True)
        self._thread.start()
        logger.info("the journal is %s", self.path)

    def write(self, now: float, event: Event, commands: tuple[Command, ...], error: str = "") -> None:
        if self.stopped:
            return
        try:
            line = encode_record(Record(now, event, commands, error))
        except Exception as fault:
            self._stop(f"{type(event).__name__} cannot be written: {describe_error(fault)}", STOPPED)
            return
        buffer = self._buffer
        if self.written_bytes + len(buffer) + len(line) > self._room:
            self._stop(FULL, FULL)
            return
        buffer += line
        if now >= self._next_flush or len(buffer) >= FLUSH_BYTES:
            self._next_flush = now + FLUSH_INTERVAL_S
            self._flush()

    def close(self) -> None:
        """Write what is left, and a last record. Waits for the disk, but not for long."""
        if not self.stopped:
            self._buffer += encode_end(STOPPED)
            self.stopped = STOPPED
            self._flush()
            self._chunks.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    @property
    def state(self) -> str:
        """For an operator."""
        ended = f", ended: {self.stopped}" if self.stopped else ""
        return f"{self.path}: {self.written_bytes + len(self._buffer)} bytes{ended}"

    def _flush(self) -> None:
        chunk = bytes(self._buffer)
        self._buffer.clear()
        self.written_bytes += len(chunk)
        self._chunks.put(chunk)
        if self.written_bytes - self._done_bytes > MAX_UNWRITTEN_BYTES:
            self._stop("the disk is too slow")

    def _stop(self, reason: str, last_record: str = "") -> None:
        """last_record: what the file says; empty where nothing more can be written."""
        self.stopped = reason
        logger.error("the journal %s ends here: %s", self.path, reason)
        if last_record:
            self._buffer += encode_end(last_record)
            self._flush()
        self._buffer.clear()
        self._chunks.put(None)

    def _write_chunks(self, file: IO[bytes]) -> None:
        """The thread: all that touches the disk."""
        try:
            with file:
                while (chunk := self._chunks.get()) is not None:
                    file.write(chunk)
                    file.flush()
                    self._done_bytes += len(chunk)
        except OSError as error:
            self.stopped = f"cannot write {self.path}: {error.strerror or error}"
            logger.error("the journal %s ends here: %s", self.path, error)


class JournaledScheduler:
    """In place of the scheduler it wraps, where events are handled; all else is asked of that one. It must be fresh."""

    def __init__(self, scheduler: Scheduler, journal: JournalWriter) -> None:
        if scheduler.version or scheduler.books.in_flight:
            raise ValueError("a journal begins with a scheduler that has been told nothing")
        self._handle = scheduler.handle
        self._journal = journal

    def handle(self, event: Event, now: float) -> list[Command]:
        try:
            commands = self._handle(event, now)
        except Exception as error:
            self._journal.write(now, event, (), describe_error(error))
            raise
        self._journal.write(now, event, tuple(commands))
        return commands


def open_journal(path: Path | None, config: SchedulerConfig, max_bytes: int, gateway_id: str) -> JournalWriter | None:
    """None where no path is configured."""
    if path is None:
        return None
    about = {"gateway": gateway_id, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    return JournalWriter(path, config, max_bytes=max_bytes, about=about)


def path_for(path: Path, gateway_id: str) -> Path:
    """Where one of several gateways writes: run.jsonl.gz -> run.gateway-0.jsonl.gz."""
    return _with_part(path, gateway_id)


def _create(path: Path) -> tuple[Path, IO[bytes]]:
    """Raises OSError."""
    for number in range(1, MAX_SAME_NAMES):
        numbered = path if number == 1 else _with_part(path, str(number))
        try:
            if path.suffix == ".gz":
                return numbered, cast(IO[bytes], gzip.open(numbered, "xb"))
            return numbered, numbered.open("xb")
        except FileExistsError:
            continue
    raise FileExistsError(f"{path} and {MAX_SAME_NAMES} files numbered after it exist")


def _with_part(path: Path, part: str) -> Path:
    stem = (path.with_suffix("") if path.suffix == ".gz" else path).stem
    return path.with_name(f"{stem}.{part}{path.name[len(stem) :]}")
