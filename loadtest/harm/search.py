"""Looking for the worst cases: at random first, then near the worst of each kind (an evolution strategy, mu + lambda).

What is tried next follows from the seed and from what was found before, generation by generation; so a search that was
ended goes on as if it had not been, and the number of processes changes nothing.
"""

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from dualmap.loadtest.harm.case import Case
from dualmap.loadtest.harm.case_log import CaseLog, Quest
from dualmap.loadtest.harm.draw_case import draw_case, mutated
from dualmap.loadtest.harm.harm import BAR, Evaluate, Evaluation
from dualmap.loadtest.harm.kinds import Group, worst_of_kinds

GENERATION = 10  # cases
RANDOM_GENERATIONS = 8  # the first ones
RANDOM_LATER = 3  # cases of each generation that stay random: kinds that nobody has met
KEPT = 7  # kinds of each group whose worst case is mutated: no group crowds out the others
REPORT_S = 10.0

Map = Callable[[Evaluate, Sequence[Case]], Iterable[Evaluation]]


def generation(number: int, quest: Quest, found: Sequence[Evaluation]) -> list[Case]:
    """found: all that came of the generations before."""
    rng = random.Random(f"{quest.seed} generation {number}")
    parents = [one for group in Group for one in worst_of_kinds(found, KEPT, group)]
    strangers = GENERATION if number < RANDOM_GENERATIONS or not parents else RANDOM_LATER
    cases = [draw_case(rng, quest.fixed) for _ in range(strangers)]
    while len(cases) < GENERATION:
        cases.append(mutated(rng, rng.choice(parents).case, quest.fixed))
    return cases


def search(quest: Quest, log: CaseLog, evaluate: Evaluate, cpu_s: float, run_all: Map = map) -> None:
    """Until so many seconds of computing are spent; run_all(evaluate, cases) may use several processes."""
    spent_s = 0.0
    progress = Progress(cpu_s)
    for cases in _generations(quest, log):
        if spent_s >= cpu_s:
            return
        for found in run_all(evaluate, cases):
            log.add(found)
            spent_s += found.cpu_s
            progress.show(log.evaluations, spent_s)
            if run_all is map and spent_s >= cpu_s:
                return


def _generations(quest: Quest, log: CaseLog) -> Iterator[list[Case]]:
    """What is left of each, from the first that the log lacks something of."""
    while True:
        number, done = divmod(len(log.evaluations), GENERATION)
        before = log.evaluations[: number * GENERATION]
        yield generation(number, quest, before)[done:]


class Progress:
    """Lines on stderr."""

    def __init__(self, cpu_s: float) -> None:
        self._cpu_s = cpu_s
        self._next_s = 0.0

    def show(self, found: Sequence[Evaluation], spent_s: float) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + REPORT_S
        bad = sum(one.borne and one.harm > BAR for one in found)
        line = f"{spent_s:.0f} of {self._cpu_s:.0f} s, {len(found)} cases, {bad} above {BAR}"
        for group in Group:
            for one in worst_of_kinds(found, 1, group):
                line += f"; {group} {one.harm:.2f}"
        print(line, file=sys.stderr, flush=True)
