"""Where the log lines of a process go, and what they look like: a file, written by a thread of its own, so that no disk
holds up a request."""

import json
import logging
import logging.handlers
import queue
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Format = Literal["console", "json"]

MAX_WAITING_LINES = 10_000  # what comes while the disk keeps up with nothing is dropped, and counted
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _OWN}


class JsonFormatter(logging.Formatter):
    """A line is an object: ts (RFC 3339, UTC), level, logger, process, message, and the fields of the record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {
            "ts": at,
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["stack"] = record.exc_text
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, process, message, and the fields as name=value."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process} %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + fields


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
    def __init__(self, lines: queue.Queue[Any], handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self._lines = lines

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)  # waits for room: the lines before it are written


class LogFile:
    """All log lines of this process, from now on until `close`. Raises OSError if the file cannot be written."""

    def __init__(self, path: Path, process: str, style: Format, level: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = logging.FileHandler(path)
        self._file.setFormatter(JsonFormatter(process) if style == "json" else ConsoleFormatter(process))
        lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_WAITING_LINES)
        self._handler = _Dropping(lines)
        self._writer = _Writer(lines, self._file)
        self._root = logging.getLogger()
        self._level_before = self._root.level
        self._root.addHandler(self._handler)
        self._root.setLevel(level.upper())
        self._writer.start()

    @property
    def dropped(self) -> int:
        return self._handler.dropped

    def close(self) -> None:
        """What was logged is written; the level is that from before."""
        self._root.removeHandler(self._handler)
        self._root.setLevel(self._level_before)
        self._writer.stop()
        self._file.close()
