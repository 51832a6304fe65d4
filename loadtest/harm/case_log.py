"""The file of a search: a first line that says what was looked for, then an evaluated case a line."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from dualmap.loadtest.harm.case import case_from, changed
from dualmap.loadtest.harm.harm import Evaluation
from dualmap.loadtest.harm.measure import Measures


@dataclass(frozen=True, slots=True)
class Quest:
    """What is looked for. seed: of the search. fixed: fields that all its cases have alike."""

    policy: str = "dualmap"
    seed: int = 0
    fixed: Mapping[str, Any] = field(default_factory=dict)


class CaseLog:
    """evaluations: what the file has, those added here included. Without a path nothing is written."""

    def __init__(self, path: Path | None, quest: Quest, *, resume: bool = False) -> None:
        """Raises ValueError where the file exists and resume is False, or is of another quest; OSError."""
        self.evaluations: list[Evaluation] = []
        self._file: IO[str] | None = None
        if path is None:
            return
        there = path.exists() and path.stat().st_size > 0
        if there:
            if not resume:
                raise ValueError(f"{path} exists: give --resume to go on with it, or another --out")
            self.evaluations = _read(path, quest)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="ascii")  # noqa: SIM115  # closed by `close`
        if not there:
            self._write(asdict(quest))

    def add(self, found: Evaluation) -> None:
        self.evaluations.append(found)
        self._write(as_row(found))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
            self._file.flush()


def as_row(found: Evaluation) -> dict[str, Any]:
    measures = {policy: asdict(measures) for policy, measures in found.measures.items()}
    derived = {"harm": found.harm, "worst": found.worst}
    return {**derived, **asdict(found), "case": changed(found.case), "measures": measures}


def _read(path: Path, quest: Quest) -> list[Evaluation]:
    """Raises ValueError. A killed writer may have left half a line, which is cut off."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    lines = content[:whole].splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        made_for = Quest(**rows[0]) if rows else quest
        found = [_evaluation(row) for row in rows[1:]]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of a search: {error}") from None
    if made_for != quest:
        raise ValueError(f"{path} was written by {made_for}, and this is {quest}: give another --out")
    return found


def _evaluation(row: dict[str, Any]) -> Evaluation:
    return Evaluation(
        case=case_from(row["case"]),
        policy=row["policy"],
        measures={policy: Measures(**measures) for policy, measures in row["measures"].items()},
        ratios=row["ratios"],
        borne=row["borne"],
        shortfall=row["shortfall"],
        cpu_s=row["cpu_s"],
    )
