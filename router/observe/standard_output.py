"""The standard output of a deployment, for each of its processes on this machine: a pipe by name that `dualmap up`
reads. Whole lines pass through it, whatever runs the processes: Ray, say, keeps what its workers print to itself."""

import fcntl
import io
import logging
import os
import re
import select
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from dualmap.router.observe.log_form import LogForm
from dualmap.router.observe.log_lines import formatter

NAME = ".stdout"  # hidden: who reads all files of the folder would wait at this one
READ_BYTES = 65_536
END = b""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class StandardOutput(logging.Handler):
    """Of a process that has no such pipe in the folder, as on another machine, it is its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._fileno = _open(folder / NAME)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write_line(self._fileno, f"{self.format(record)}\n".encode())
        except Exception:  # a log line ends nothing
            self.handleError(record)

    def close(self) -> None:
        super().close()
        if self._fileno > 2:
            os.close(self._fileno)
            self._fileno = 1


def _open(path: Path) -> int:
    try:
        fileno = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 1
    if not stat.S_ISFIFO(os.fstat(fileno).st_mode):
        os.close(fileno)
        return 1
    os.set_blocking(fileno, True)
    return fileno


def _write_line(fileno: int, line: bytes) -> None:
    """A pipe keeps lines of several processes whole up to 4 KiB; the lock does beyond."""
    fcntl.flock(fileno, fcntl.LOCK_EX)
    try:
        while line:
            line = line[os.write(fileno, line) :]
    finally:
        fcntl.flock(fileno, fcntl.LOCK_UN)


@contextmanager
def as_shown(form: LogForm) -> Iterator[None]:
    """What this process prints meanwhile are lines as those of the others, where these are JSON and go the same way:
    what `dualmap up` says, and what Ray prints of its own accord when a process dies."""
    if not (form.shown and form.style == "json"):
        yield
        return
    with redirect_stdout(_JsonLines(sys.stdout)):
        yield


class _JsonLines(io.TextIOBase):
    """Each line that is written is an object of a line, without colours."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._line = formatter("json", "up")
        self._begun = ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in filter(None, whole):
            record = logging.LogRecord("dualmap.up", logging.INFO, "", 0, COLOUR.sub("", line), None, None)
            self._out.write(self._line.format(record) + "\n")
        if whole:
            self._out.flush()
        return len(text)


class ShowLines:
    """Makes the pipe in a folder, and writes what comes out of it to a file, until `close`."""

    def __init__(self, folder: Path, out: BinaryIO | None = None) -> None:
        """out: None: standard output. Raises OSError."""
        self._path = folder / NAME
        os.mkfifo(self._path, 0o600)
        self._fileno = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)  # as a writer, too: it never ends by itself
        self._wake, self._waker = os.pipe()
        self._out = out if out is not None else sys.stdout.buffer
        self._thread = threading.Thread(target=self._show, name="standard output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What was written before is shown."""
        os.close(self._waker)
        self._thread.join()
        os.close(self._fileno)
        os.close(self._wake)
        self._path.unlink(missing_ok=True)

    def _show(self) -> None:
        rest = b""
        while self._wake not in select.select([self._fileno, self._wake], [], [])[0]:
            rest = self._pass_on(rest + self._read())
        while read := self._read():
            rest += read
        self._pass_on(rest)

    def _read(self) -> bytes:
        try:
            return os.read(self._fileno, READ_BYTES)
        except BlockingIOError:
            return END

    def _pass_on(self, read: bytes) -> bytes:
        """Whole lines; what is left over."""
        lines, end, rest = read.rpartition(b"\n")
        with suppress(OSError, ValueError):  # nobody reads it any more: writers go on
            self._out.write(lines + end)
            self._out.flush()
        return rest
