"""The plan: what each split of the instances is worth in each window, which is best, and what that is worth."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.plan.question import BySeed, Measure, Place, Question
from dualmap.loadtest.plan.splits import Split, finer_splits, first_splits, like
from dualmap.loadtest.study.tables import Estimate, estimate, paired_ratio

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

    def splits(self) -> list[Split]:
        """All that were looked at, mixed instances first."""
        return sorted({split for _, split in self.about})

    def exact_splits(self) -> list[Split]:
        return sorted({split for _, split in self.exact})

    def worth(self, window: int, split: Split) -> Estimate:
        return estimate(self.exact[window, split].values())

    def best(self, window: int) -> Split:
        """Of equal ones that with the most in common with mixed instances: fewest that prefill."""
        return max(self.exact_splits(), key=lambda split: (self.worth(window, split).mean, -split.prefill))

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
    fresh = set(first_splits(question.instances))
    while fresh:
        about |= measure.screen((window, split) for window in windows for split in sorted(fresh))
        known = {split for _, split in about}
        fresh = {finer for window in windows for finer in finer_splits(known, _best(about, window))}
    near = {Split(question.instances), _steadiest(about)}.union(*(_near_best(about, window) for window in windows))
    exact = measure.exactly([(window, split) for window in windows for split in sorted(near)], about, question.seeds)
    plan = Plan(question, exact, about)
    return replace(plan, smallest=_smallest(question, measure, plan.best(0))) if find_smallest else plan


def _best(about: Mapping[Place, float], window: int) -> Split:
    return max((found, -split.prefill, split) for (number, split), found in about.items() if number == window)[2]


def _near_best(about: Mapping[Place, float], window: int) -> Iterator[Split]:
    found = sorted(((-worth, split) for (number, split), worth in about.items() if number == window and split.prefill))
    most = about[window, _best(about, window)]
    for worth, split in found[:_MOST_EXACT]:
        if -worth >= NEAR * most or (worth, split) == found[0]:
            yield split


def _steadiest(about: Mapping[Place, float]) -> Split:
    """What loses the least over all windows."""
    worth: dict[Split, float] = defaultdict(float)
    for (window, split), found in about.items():
        worth[split] += found / (about[window, _best(about, window)] or 1.0)
    return max(worth, key=lambda split: (worth[split], -split.prefill))


def _smallest(question: Question, measure: Measure, best: Split) -> Split | None:
    """More instances are taken to do no worse."""
    missed, kept = 0, best.instances
    split = _keeps(question, measure, best, kept)
    while split is None:
        if kept >= _MOST_TIMES * best.instances:
            return None
        missed, kept = kept, 2 * kept
        split = _keeps(question, measure, best, kept)
    while kept - missed > 1:
        middle = (kept + missed) // 2
        found = _keeps(question, measure, best, middle)
        missed, kept, split = (middle, kept, split) if found is None else (missed, middle, found)
    return split


def _keeps(question: Question, measure: Measure, best: Split, instances: int) -> Split | None:
    """What of so many instances keeps the target, mixed ones first; None where nothing does."""
    likely = measure.exactly([(0, split) for split in like(best, instances)], {}, 1)
    for place in sorted(likely, key=lambda place: (place[1].prefill > 0, -likely[place][0])):
        if likely[place][0] >= question.target:
            worth = measure.exactly([place], {}, question.seeds)[place]
            if estimate(worth.values()).mean >= question.target:
                return place[1]
    return None
