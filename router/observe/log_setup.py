"""Where the log lines of a process go: to files, to standard output, or both, written by a thread of its own, so that
nothing slow holds up a request."""

import logging
import logging.handlers
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualmap.router.fleet import log_events
from dualmap.router.observe.log_form import LogForm
from dualmap.router.observe.log_lines import formatter
from dualmap.router.observe.standard_output import StandardOutput

MAX_WAITING_LINES = 10_000  # what comes while the disk keeps up with nothing is dropped, and counted


class _Dropping(logging.handlers.QueueHandler):
    """dropped: lines for which there was no room."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # it is formatted by the thread that writes it

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Writer(logging.handlers.QueueListener):
    def __init__(self, lines: queue.Queue[Any], handlers: list[logging.Handler]) -> None:
        super().__init__(lines, *handlers)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)  # waits for room: the lines before it are written


class ProcessLog:
    """All log lines of this process, from now on until `close`."""

    def __init__(self, folder: Path, process: str, form: LogForm, tells_events: bool = False) -> None:
        """folder: gets PROCESS.log, and has what leads to the deployment's standard output. tells_events: what happens
        to the fleet is shown, which only one process does. Raises OSError if the file cannot be written."""
        self._handlers = list(_handlers(folder, process, form, tells_events))
        for handler in self._handlers:
            handler.setFormatter(formatter(form.style, process))
        lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_WAITING_LINES)
        self._handler = _Dropping(lines)
        self._writer = _Writer(lines, self._handlers)
        self._root = logging.getLogger()
        self._level_before = self._root.level
        self._root.addHandler(self._handler)
        self._root.setLevel(form.level.upper())
        self._writer.start()

    @property
    def dropped(self) -> int:
        return self._handler.dropped

    def close(self) -> None:
        """What was logged is written; the level is that from before."""
        self._root.removeHandler(self._handler)
        self._root.setLevel(self._level_before)
        self._writer.stop()
        for handler in self._handlers:
            handler.close()


def _handlers(folder: Path, process: str, form: LogForm, tells_events: bool) -> Iterator[logging.Handler]:
    if form.written:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{process}.log"
        yield logging.handlers.RotatingFileHandler(path, maxBytes=form.max_bytes, backupCount=form.max_files)
    if form.shown:
        shown = StandardOutput(folder)
        if not tells_events:
            shown.addFilter(lambda record: record.name != log_events.__name__)
        yield shown
