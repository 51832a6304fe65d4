"""Writing a study's file, row by row, so that an ended study can be taken up again."""

import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from dualmap.loadtest.study.file import Cell, DecisionCost, Study, StudyCapacity, StudyHeader, StudyRun, read_studies


class StudyLog:
    """study: what the file has, rows added here included. Without a path nothing is written."""

    def __init__(self, path: Path | None, *, resume: bool = False) -> None:
        """Raises ValueError where the file exists and resume is False, or is no study; OSError."""
        self.path = path
        self.study = Study([], [], [], [])
        self._runs: dict[Hashable, list[StudyRun]] = defaultdict(list)
        self._capacities: dict[Hashable, list[StudyCapacity]] = defaultdict(list)
        self._by_cell: dict[Cell, list[StudyCapacity]] = defaultdict(list)
        self._file: IO[bytes] | None = None
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            if not resume:
                raise ValueError(f"{path} exists: give --resume to go on with it, or another --out")
            _cut_torn_line(path)
            self.study = _rows_of(path)
            for run in self.study.runs:
                self._index(run)
            for capacity in self.study.capacities:
                self._index(capacity)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115  # closed by __exit__
        if not self.study.headers:
            self._write(header())

    def __enter__(self) -> "StudyLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: StudyRun | StudyCapacity | DecisionCost) -> None:
        match row:
            case StudyRun():
                self.study.runs.append(row)
                self._index(row)
            case StudyCapacity():
                self.study.capacities.append(row)
                self._index(row)
            case DecisionCost():
                self.study.costs.append(row)
        self._write(row)

    def runs_of(self, key: Hashable) -> Sequence[StudyRun]:
        """By contender_key, in the order of the file; as the others."""
        return self._runs.get(key, ())

    def capacities_of(self, key: Hashable) -> Sequence[StudyCapacity]:
        return self._capacities.get(key, ())

    def capacities_in(self, cell: Cell) -> Sequence[StudyCapacity]:
        return self._by_cell.get(cell, ())

    def _index(self, row: StudyRun | StudyCapacity) -> None:
        key = contender_key(row)
        if isinstance(row, StudyRun):
            self._runs[key].append(row)
        else:
            self._capacities[key].append(row)
            self._by_cell[row.cell].append(row)

    def _write(self, row: StudyHeader | StudyRun | StudyCapacity | DecisionCost) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(row) + b"\n")
            self._file.flush()


def contender_key(row: StudyRun | StudyCapacity) -> Hashable:
    """Equal for rows that differ in rate or target alone: one policy with one seed, in one setup."""
    return row.cell, row.policy, row.seed, tuple(sorted(row.config.items())), row.experiment, row.setup


def header() -> StudyHeader:
    return StudyHeader(
        format=1,
        date=time.strftime("%Y-%m-%d"),
        python=platform.python_version(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        version=code_version(),
    )


def code_version() -> str:
    """The commit of the source, where there is one to ask; else the package's version."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--tags"]
    root = Path(__file__).resolve().parent
    try:
        asked = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        return asked.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return version("dualmap")
    except PackageNotFoundError:
        return ""


def _rows_of(path: Path) -> Study:
    """A file of a header alone is one with nothing done. Raises StudyFileError."""
    with open(path, "rb") as file:
        lines = sum(1 for _ in file)
    if lines == 1:
        try:
            only = msgspec.json.decode(path.read_bytes(), type=StudyHeader)
        except msgspec.MsgspecError:
            return read_studies([path])  # says what is wrong with it
        return Study([only], [], [], [])
    return read_studies([path]) if lines else Study([], [], [], [])


def _cut_torn_line(path: Path) -> None:
    """A killed writer may have left half a line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        print(f"{path}: its last line is cut short and is dropped", file=sys.stderr)
        os.truncate(path, whole)
