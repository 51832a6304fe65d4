"""The plan: what each split of the instances is worth in each window, which is best, and what that is worth."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.plan.question import BySeed, Measure, Place, Question
from dualmap.loadtest.plan.splits import Split, finer_splits, first_splits, like
from dualmap.loadtest.study.tables import Estimate, estimate, paired_ratio
from dualmap.loadtest.virtual.step_sizes import full_step_s

NEAR = 0.85  # of the best at the first look: what is looked at exactly
_MOST_EXACT = 4  # splits of a window
LEVEL = 0.02  # what is nearer to the best than this, or than seeds can tell, is level with it
LEVEL_ONE_SEED = 0.05
_MOST_TIMES = 8  # the instances asked about, that a fleet is looked for


@dataclass(frozen=True, slots=True)
class Plan:
    """exact: by window and split, of each seed; about: of a first look. Both are requests a second within the
    objective or, where the question has rates, the share of requests. smallest: the fewest instances that keep the
    target at the rate; None where that was not asked or none does."""

    question: Question
    exact: Mapping[Place, BySeed]
    about: Mapping[Place, float]
    smallest: Split | None = None

    @property
    def mixed(self) -> Split:
        return Split(self.question.instances)

    @property
    def small_steps(self) -> Split | None:
        """Mixed instances with the steps that serve most over all windows; None where none were asked about."""
        return next((split for split in self.exact_splits() if split.step_tokens), None)

    def splits(self) -> list[Split]:
        """All that were looked at, mixed instances first."""
        return sorted({split for _, split in self.about})

    def exact_splits(self) -> list[Split]:
        return sorted({split for _, split in self.exact})

    def worth(self, window: int, split: Split) -> Estimate:
        return estimate(self.exact[window, split].values())

    def best(self, window: int) -> Split:
        """Of equal ones that with the most in common with mixed instances: fewest that prefill, steps of the model."""
        return min(self.exact_splits(), key=lambda split: (-self.worth(window, split).mean, split))

    def spare_step_s(self) -> float | None:
        """What each of the small steps can cost at most, more than in the profile, while they serve more than all
        else, in each window where they do; None where that is none, or where the question has rates. A step that
        takes that much longer computes so much less in a second; that its pace suffers, too, is not counted."""
        small = self.small_steps
        if small is None or self.question.rates is not None:
            return None
        spare = []
        for window, setup in enumerate(self.question.windows):
            others = (self.ratio(window, small, split).mean for split in self.exact_splits() if split != small)
            gains = [ratio - 1 for ratio in others if not isnan(ratio)]
            if self.best(window) == small and gains:
                spare.append(min(gains) * full_step_s(setup, small.step_tokens))
        return min(spare, default=None)

    def ratio(self, window: int, split: Split, to: Split) -> Estimate:
        """Within seeds."""
        return paired_ratio(self.exact[window, split], self.exact[window, to])

    def is_level(self, window: int, split: Split, to: Split) -> bool:
        """Whether the runs cannot tell them apart."""
        found = self.ratio(window, split, to)
        return abs(found.mean - 1) <= (LEVEL_ONE_SEED if isnan(found.half) else max(LEVEL, found.half))

    def losses(self) -> list["FixedSplit"]:
        """What one split for all windows loses against the best of each, the least first."""
        numbers = [n for n in range(len(self.question.windows)) if self.worth(n, self.best(n)).mean > 0]
        found = []
        for split in self.exact_splits():
            lost = [1 - self.ratio(window, split, self.best(window)).mean for window in numbers]
            found.append(FixedSplit(split, sum(lost) / max(len(lost), 1), max(lost, default=0.0)))
        return sorted(found, key=lambda one: (round(one.mean, 4), one.worst, one.split))


class FixedSplit(NamedTuple):
    """Shares of what the best split of each window serves: over all windows alike, and in the worst one."""

    split: Split
    mean: float
    worst: float


def make_plan(question: Question, measure: Measure, *, find_smallest: bool = False) -> Plan:
    """find_smallest: for a question of one window, with a rate. Raises what the measure raises."""
    windows = range(len(question.windows))
    about: dict[Place, float] = {}
    stepped = {Split(question.instances, step_tokens=tokens) for tokens in question.step_tokens}
    fresh = stepped.union(first_splits(question.instances))
    while fresh:
        about |= measure.screen((window, split) for window in windows for split in sorted(fresh))
        known = {split for _, split in about} - stepped
        fresh = {finer for window in windows for finer in finer_splits(known, _best(about, window, known))}
    near = {Split(question.instances), _steadiest(about, known)}.union(*(_near_best(about, n, known) for n in windows))
    if stepped:
        near.add(_steadiest(about, stepped))
    exact = measure.exactly([(window, split) for window in windows for split in sorted(near)], about, question.seeds)
    plan = Plan(question, exact, about)
    return replace(plan, smallest=_smallest(plan, measure)) if find_smallest else plan


def _best(about: Mapping[Place, float], window: int, among: Iterable[Split]) -> Split:
    return min(among, key=lambda split: (-about[window, split], split))


def _near_best(about: Mapping[Place, float], window: int, among: Collection[Split]) -> Iterator[Split]:
    found = sorted((-about[window, split], split) for split in among if split.prefill)
    most = max(about[window, split] for split in among)
    for worth, split in found[:_MOST_EXACT]:
        if -worth >= NEAR * most or (worth, split) == found[0]:
            yield split


def _steadiest(about: Mapping[Place, float], among: Collection[Split]) -> Split:
    """What loses the least over all windows."""
    windows = sorted({window for window, _ in about})
    most = {window: about[window, _best(about, window, among)] or 1.0 for window in windows}
    return min(among, key=lambda split: (-sum(about[window, split] / most[window] for window in windows), split))


def _smallest(plan: Plan, measure: Measure) -> Split | None:
    """More instances are taken to do no worse."""
    best = plan.best(0)
    missed, kept = 0, best.instances
    split = _keeps(plan, measure, kept)
    while split is None:
        if kept >= _MOST_TIMES * best.instances:
            return None
        missed, kept = kept, 2 * kept
        split = _keeps(plan, measure, kept)
    while kept - missed > 1:
        middle = (kept + missed) // 2
        found = _keeps(plan, measure, middle)
        missed, kept, split = (middle, kept, split) if found is None else (missed, middle, found)
    return split


def _keeps(plan: Plan, measure: Measure, instances: int) -> Split | None:
    """What of so many instances keeps the target, mixed ones first; None where nothing does."""
    question, small = plan.question, plan.small_steps
    alike = like(plan.best(0), instances, [small.step_tokens] if small else [])
    likely = measure.exactly([(0, split) for split in alike], {}, 1)
    for place in sorted(likely, key=lambda place: (place[1].prefill > 0, place[1].step_tokens, -likely[place][0])):
        if likely[place][0] >= question.target:
            worth = measure.exactly([place], {}, question.seeds)[place]
            if estimate(worth.values()).mean >= question.target:
                return place[1]
    return None
