"""What a plan is asked for, and the runs that answer it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.study.simulated_capacity import guess_qps
from dualmap.loadtest.study.simulation import Contender
from dualmap.loadtest.study.simulation_jobs import CapacityJob, Job, RateJob, job_key
from dualmap.loadtest.study.work_off import work_off
from dualmap.loadtest.virtual.simulated_workload import Setup

SCREENED = 4  # times fewer requests, for the first look
_SCREEN_STEPS = 4  # of the grid of rates: 8 %
_LEAST_REQUESTS = 200
_OVER = 2.0  # a first look that finds more than so many times the guess was too short for queues to grow

BySeed = Mapping[int, float]
Place = tuple[int, Split]  # the number of a window, and what it is served by


@dataclass(frozen=True, slots=True)
class Question:
    """windows: stretches of the trace, each with `instances` that all do both. target: the share of requests to be
    within the objective. rates: requests a second in each window; None: the highest that keep the target are looked
    for. step_tokens: of small steps that mixed instances are looked at with; mixed_model: that of such instances, if
    another."""

    windows: Sequence[Setup]
    target: float
    rates: Sequence[float] | None = None
    seeds: int = 3
    policy: str = "dualmap"
    overrides: tuple[tuple[str, bool | int | float | str | None], ...] = ()
    step_tokens: Sequence[int] = ()
    mixed_model: str | None = None

    @property
    def instances(self) -> int:
        return self.windows[0].instances

    def setup(self, window: int, split: Split) -> Setup:
        whole = self.windows[window]
        return replace(
            whole,
            instances=split.instances,
            prefill=split.prefill,
            decode=split.decode,
            step_tokens=split.step_tokens,
            model=(split.step_tokens and self.mixed_model) or whole.model,
        )


class Measure(Protocol):
    """Requests a second that keep the target or, where the question has rates, the share of requests within the
    objective; 0 where none does."""

    def screen(self, places: Iterable[Place]) -> Mapping[Place, float]:
        """A first look."""

    def exactly(self, places: Iterable[Place], near: Mapping[Place, float], seeds: int) -> Mapping[Place, BySeed]:
        """With so many seeds. near: about what will come of it."""


@dataclass(slots=True)
class Runs:
    """A Measure by runs in virtual time. What comes of one does not depend on which others there were, nor on their
    order."""

    question: Question
    processes: int
    log: StudyLog = field(default_factory=lambda: StudyLog(None))

    def screen(self, places: Iterable[Place]) -> Mapping[Place, float]:
        """With few requests, one seed, and rates far apart."""
        asked = {place: self._job(place, 0, screened=True) for place in places}
        self._do(asked.values())
        return {place: self._found(job) for place, job in asked.items()}

    def exactly(self, places: Iterable[Place], near: Mapping[Place, float], seeds: int) -> Mapping[Place, BySeed]:
        """With all requests; but what was measured before is not measured again."""
        asked = {(place, seed): self._job(place, seed, near.get(place)) for place in places for seed in range(seeds)}
        self._do(asked.values())
        found: dict[Place, dict[int, float]] = {}
        for (place, seed), job in asked.items():
            found.setdefault(place, {})[seed] = self._found(job)
        return found

    def _job(self, place: Place, seed: int, near: float | None = None, *, screened: bool = False) -> Job:
        window, _ = place
        question = self.question
        setup = question.setup(*place)
        if screened:
            fewer = max(setup.limit // SCREENED, min(_LEAST_REQUESTS, setup.limit))
            setup = replace(setup, limit=fewer, warmup=setup.warmup * fewer // setup.limit)
        contender = Contender(question.policy, seed, question.overrides)
        if question.rates is not None:
            return RateJob(setup, contender, (question.rates[window],))
        steps = _SCREEN_STEPS if setup.limit < question.windows[window].limit else 1
        guess = guess_qps(setup)
        return CapacityJob(setup, contender, (question.target,), min(near or guess, _OVER * guess), steps=steps)

    def _do(self, jobs: Iterable[Job]) -> None:
        work_off(list(jobs), self.log, self.processes)

    def _found(self, job: Job) -> float:
        """0 where no rate in reach keeps the target."""
        if isinstance(job, RateJob):
            return self.log.runs_of(job_key(job))[-1].attainment
        return self.log.capacities_of(job_key(job))[-1].qps or 0.0
