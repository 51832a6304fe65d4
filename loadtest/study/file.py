"""The file of a policy study: a header line, then a line for each simulated run, capacity or decision cost (JSONL).

A run is one policy in one cell at one arrival rate with one seed. A capacity is the highest rate at which that share
of the requests met the cell's objective (virtual/objectives.py). Times are seconds of virtual time, decision costs
microseconds of CPU.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import nan
from pathlib import Path
from typing import NamedTuple

import msgspec

from dualmap.loadtest.virtual.objectives import TPOT_S, TTFT

QUANTILES = 101  # of ttft_quantiles: 0 %, 1 %, ... 100 %


class Experiment(StrEnum):
    CELLS = "cells"  # policies over workloads and clusters
    ABLATION = "ablation"  # config switches one technique of dualmap off
    SENSITIVITY = "sensitivity"  # config sets one constant to another value, at a fixed rate
    DECISION_COST = "decision_cost"
    ROLES = "roles"  # instances that prefill and instances that decode, against as many that do both


class Cell(NamedTuple):
    """What policies are compared in. disturbance: "" for none. prefill, decode: instances of each role; 0: each does
    both. step_tokens: that instances compute in a step; 0: as the model has it."""

    trace: str
    model: str
    instances: int
    disturbance: str
    gateways: int
    slo_s: float
    objective: str = TTFT
    tpot_s: float = TPOT_S
    prefill: int = 0
    decode: int = 0
    step_tokens: int = 0


class StudyHeader(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="study"):
    format: int
    date: str
    python: str = ""
    machine: str = ""
    version: str = ""


class _InCell(msgspec.Struct, frozen=True, kw_only=True):
    """What runs and capacities share.

    config: settings of the scheduler that differ from the policy's own. setup: how much of the trace was used.
    """

    trace: str
    policy: str
    instances: int
    seed: int
    model: str
    disturbance: str | None = None
    slo_s: float
    objective: str = TTFT
    tpot_s: float = TPOT_S
    gateways: int = 1
    prefill: int = 0
    decode: int = 0
    step_tokens: int = 0
    config: dict[str, bool | int | float | str | None] = {}
    experiment: Experiment = Experiment.CELLS
    setup: str = ""

    @property
    def cell(self) -> Cell:
        undisturbed = self.disturbance in (None, "none")
        disturbance = "" if undisturbed else str(self.disturbance)
        return Cell(
            self.trace,
            self.model,
            self.instances,
            disturbance,
            self.gateways,
            self.slo_s,
            self.objective,
            self.tpot_s,
            self.prefill,
            self.decode,
            self.step_tokens,
        )


class StudyRun(_InCell, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """None where nothing was measured, as in a run without a first token.

    attainment: the share within the objective of the cell; kept: under each objective, of a run that was not stopped.
    token_goodput: of the tokens of prompts and answers, the share in requests within the objective.
    instance_s, plans: as in ClusterRun, of a cluster that scales itself.
    busiest_cell: its requests against those of the mean cell, where there are several.
    """

    qps: float
    requests: int
    attainment: float
    kept: dict[str, float] = {}
    token_goodput: float | None = None
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    ttft_p99_s: float | None = None
    ttft_quantiles: list[float | None] = []
    e2e_p50_s: float | None = None
    e2e_p90_s: float | None = None
    itl_p50_s: float | None = None
    itl_p90_s: float | None = None
    itl_p99_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p90_s: float | None = None
    hit_rate: float | None = None
    load_skew: float | None = None
    preemptions: int = 0
    moves: int = 0
    failed: int = 0
    complete: bool = True
    cpu_s: float | None = None
    instance_s: float | None = None
    plans: list[tuple[float, str]] = []
    busiest_cell: float | None = None


class StudyCapacity(_InCell, frozen=True, kw_only=True, tag_field="kind", tag="capacity"):
    """attainment: the share aimed at. qps: the highest rate that reached it; the rest is measured at the rate that was
    tried next below."""

    attainment: float
    qps: float | None
    ttft_p50_s: float | None = None
    ttft_p90_s: float | None = None
    ttft_p99_s: float | None = None
    e2e_p50_s: float | None = None
    itl_p90_s: float | None = None
    itl_p99_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p90_s: float | None = None
    hit_rate: float | None = None


class DecisionCost(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="decision_cost"):
    policy: str
    instances: int
    us: float


class Study(NamedTuple):
    """Several files' rows together."""

    headers: list[StudyHeader]
    runs: list[StudyRun]
    capacities: list[StudyCapacity]
    costs: list[DecisionCost]


class StudyFileError(ValueError):
    """A file that is not a study. The message names the file, the line and what is wrong with it."""


class _Kind(msgspec.Struct):
    kind: str = ""


_decoder = msgspec.json.Decoder(StudyHeader | StudyRun | StudyCapacity | DecisionCost)
_kind = msgspec.json.Decoder(_Kind)


def is_study(path: str | Path) -> bool:
    """Whether the first line is a study's header. A file that cannot be read is none: its own reader says why."""
    try:
        with open(path, "rb") as lines:
            return _kind.decode(lines.readline()).kind == "study"
    except (OSError, msgspec.MsgspecError):
        return False


def read_studies(paths: Sequence[str | Path]) -> Study:
    """Raises StudyFileError."""
    study = Study([], [], [], [])
    for path in paths:
        try:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        _add(study, _decoder.decode(line), first=number == 1)
                    except ValueError as error:  # msgspec's are ValueErrors too
                        raise StudyFileError(f"{path}, line {number}: {error}") from None
        except OSError as error:
            raise StudyFileError(f"{path}: {error.strerror or error}") from error
    if not (study.runs or study.capacities or study.costs):
        raise StudyFileError(f"{', '.join(map(str, paths))}: a study without rows")
    return study


def _add(study: Study, row: StudyHeader | StudyRun | StudyCapacity | DecisionCost, *, first: bool) -> None:
    if isinstance(row, StudyHeader) is not first:
        raise ValueError("a second header" if not first else "no header line, so this is not the file of a study")
    match row:
        case StudyHeader():
            if row.format != 1:
                raise ValueError(f"format {row.format}: this version reads format 1")
            study.headers.append(row)
        case StudyRun():
            if len(row.ttft_quantiles) not in (0, QUANTILES):
                raise ValueError(f"ttft_quantiles has {len(row.ttft_quantiles)} values, expected {QUANTILES}")
            study.runs.append(row)
        case StudyCapacity():
            study.capacities.append(row)
        case DecisionCost():
            study.costs.append(row)


def number(value: float | None) -> float:
    return nan if value is None else value
