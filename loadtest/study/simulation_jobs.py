"""What a worker of a study does at a time: some rates of one contender, or the search for its capacities."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dualmap.loadtest.study.file import Cell, StudyCapacity, StudyRun
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.study.simulated_capacity import find_capacities
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.virtual.disturbances import load_disturbance
from dualmap.loadtest.virtual.models import load_model
from dualmap.loadtest.virtual.simulated_workload import Setup

_RUNS_OF_SEARCH = 10

OnRow = Callable[[StudyRun | StudyCapacity], None]


@dataclass(frozen=True, slots=True)
class RateJob:
    setup: Setup
    contender: Contender
    rates: tuple[float, ...]

    def do(self, on_row: OnRow) -> None:
        for qps in self.rates:
            on_row(simulate(self.setup, self.contender, qps))


@dataclass(frozen=True, slots=True)
class CapacityJob:
    """known: runs made before. guess: about where the first target's capacity is. steps: as for CapacitySearch."""

    setup: Setup
    contender: Contender
    targets: tuple[float, ...]
    guess: float | None = None
    known: tuple[StudyRun, ...] = ()
    steps: int = 1

    def do(self, on_row: OnRow) -> None:
        found = find_capacities(
            self.setup,
            self.contender,
            self.targets,
            guess=self.guess,
            known=self.known,
            steps=self.steps,
            on_run=on_row,
        )
        for row in found:
            on_row(row)


Job = RateJob | CapacityJob


def weight(job: Job) -> float:
    """About how many requests it simulates."""
    runs = len(job.rates) if isinstance(job, RateJob) else _RUNS_OF_SEARCH
    return runs * job.setup.limit * job.setup.copies


def what_is_left(job: Job, log: StudyLog) -> Job | None:
    """The job without what the file has; None if that is all of it."""
    key = job_key(job)
    runs = log.runs_of(key)
    if isinstance(job, RateJob):
        made = {run.qps for run in runs if run.complete}
        rates = tuple(qps for qps in job.rates if qps not in made)
        return replace(job, rates=rates) if rates else None
    found = {row.attainment for row in log.capacities_of(key)}
    targets = tuple(target for target in job.targets if target not in found)
    return replace(job, targets=targets, known=tuple(runs)) if targets else None


def prepared(job: Job, log: StudyLog) -> Job:
    """With what is known when it starts. A search begins at what was found for another seed, or else for another policy
    of the same cell."""
    job = what_is_left(job, log) or job
    if not isinstance(job, CapacityJob) or job.guess:
        return job
    cell, policy, _, config, _, _ = job_key(job)
    first = min(job.targets)
    rows = [row for row in log.capacities_in(cell) if row.attainment == first and row.qps]
    alike = [row for row in rows if row.policy == policy and tuple(sorted(row.config.items())) == config]
    chosen = (alike or rows)[-1:]
    return replace(job, guess=chosen[0].qps) if chosen else job


def job_key(job: Job) -> tuple[Any, ...]:
    """As `contender_key` of the rows that it makes."""
    setup, contender = job.setup, job.contender
    disturbance = load_disturbance(setup.disturbance)
    cell = Cell(
        setup.title,
        load_model(setup.model).name,
        setup.instances,
        "" if disturbance.name == "none" else disturbance.name,
        max(setup.gateways, disturbance.gateways),
        setup.slo_s,
        setup.objective,
        setup.tpot_s,
        setup.prefill,
        setup.decode,
        setup.step_tokens,
    )
    config = tuple(sorted(contender.overrides))
    return cell, contender.policy, contender.seed, config, contender.experiment, setup.in_words
