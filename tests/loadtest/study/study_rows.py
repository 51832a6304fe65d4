"""Rows of a study, each of one short line."""

import msgspec

from dualmap.loadtest.study.file import Study, StudyCapacity, StudyRun

CELL = {"trace": "t", "instances": 8, "model": "m", "slo_s": 5.0}


def capacity(policy: str, qps: float | None, seed: int = 0, **other: object) -> StudyCapacity:
    row = CELL | {"policy": policy, "qps": qps, "seed": seed, "attainment": 0.9} | other
    return msgspec.convert(row, StudyCapacity)


def run(policy: str, qps: float, attainment: float, seed: int = 0, **other: object) -> StudyRun:
    row = CELL | {"policy": policy, "qps": qps, "seed": seed, "attainment": attainment, "requests": 10} | other
    return msgspec.convert(row, StudyRun)


def study(*rows: StudyCapacity | StudyRun) -> Study:
    runs = [row for row in rows if isinstance(row, StudyRun)]
    return Study([], runs, [row for row in rows if isinstance(row, StudyCapacity)], [])
