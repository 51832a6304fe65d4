"""The numbers of a policy study: means over seeds and their confidence, ratios of policies, what is comparable."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import exp, isnan, log, nan, sqrt
from statistics import mean, stdev
from typing import NamedTuple

from dualmap.loadtest.study.file import Cell, Experiment, Study, StudyCapacity, StudyRun, number
from dualmap.loadtest.virtual.objectives import OBJECTIVES

DUALMAP, PAPER = "dualmap", "dualmap_paper"
BOUND = "bound"  # in the place of a policy: one cache shared by all instances, one queue
TARGETS = (0.9, 0.95, 0.99)
MAIN_TRACE, MAIN_INSTANCES = "mooncake_conversation", 8
_T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

BySeed = Mapping[int, float]


class Estimate(NamedTuple):
    """half: of the 95 % t-interval for three seeds or more, of the range for two, nan for one."""

    mean: float
    half: float = nan
    seeds: int = 1


UNKNOWN = Estimate(nan, nan, 0)


def estimate(values: Iterable[float]) -> Estimate:
    known = [value for value in values if not isnan(value)]
    match len(known):
        case 0:
            return UNKNOWN
        case 1:
            return Estimate(known[0])
        case 2:
            return Estimate(mean(known), abs(known[0] - known[1]) / 2, 2)
    t = _T95[len(known) - 2] if len(known) - 2 < len(_T95) else 2.1
    return Estimate(mean(known), t * stdev(known) / sqrt(len(known)), len(known))


def paired_ratio(above: BySeed, below: BySeed) -> Estimate:
    """Ratio within each seed that both have, then the mean: what a seed makes hard, it makes hard for both."""
    return estimate(above[seed] / below[seed] for seed in above if below.get(seed))


def geometric_mean(values: Iterable[float]) -> float:
    """nan for none, 0 if any is 0. Of ratios, so that twice and half cancel out."""
    known = [value for value in values if not isnan(value)]
    if not known or min(known) <= 0:
        return 0.0 if known else nan
    return exp(mean(map(log, known)))


class Capacities:
    """Capacity rows of the policies as they are (no ablation, no varied constant), by cell, target, policy and seed."""

    def __init__(self, rows: Iterable[StudyCapacity], experiment: Experiment = Experiment.CELLS) -> None:
        self._rows: dict[tuple[Cell, float, str], dict[int, StudyCapacity]] = defaultdict(dict)
        for row in rows:
            if row.experiment is experiment and not row.config:
                self._rows[row.cell, round(row.attainment, 4), row.policy][row.seed] = row
        self.cells = sorted({cell for cell, _, _ in self._rows}, key=cell_order)
        self.targets = sorted({target for _, target, _ in self._rows})

    def policies(self, cell: Cell, target: float) -> list[str]:
        return [policy for c, t, policy in self._rows if (c, t) == (cell, target)]

    def by_seed(self, cell: Cell, target: float, policy: str, field: str = "qps") -> dict[int, float]:
        rows = self._rows.get((cell, target, policy), {})
        return {seed: number(getattr(row, field)) for seed, row in rows.items()}

    def of(self, cell: Cell, target: float, policy: str, field: str = "qps") -> Estimate:
        return estimate(self.by_seed(cell, target, policy, field).values())

    def ratio(self, cell: Cell, target: float, policy: str, to: str) -> Estimate:
        return paired_ratio(self.by_seed(cell, target, policy), self.by_seed(cell, target, to))

    def best_peer(self, cell: Cell, target: float) -> str | None:
        """The policy of the highest capacity in this cell, other than dualmap and the bound."""
        means = {p: self.of(cell, target, p).mean for p in self.policies(cell, target) if is_peer(p)}
        known = {policy: value for policy, value in means.items() if not isnan(value)}
        return max(known, key=lambda p: (known[p], p), default=None)


def by_objective(rows: Iterable[StudyCapacity]) -> dict[str, Capacities]:
    """Capacities under different objectives are no one's mean."""
    apart: dict[str, list[StudyCapacity]] = defaultdict(list)
    for row in rows:
        apart[row.objective].append(row)
    found = {name: Capacities(apart[name]) for name in sorted(apart, key=_objective_order)}
    return {name: capacities for name, capacities in found.items() if capacities.cells}


def _objective_order(name: str) -> tuple[int, str]:
    return (OBJECTIVES.index(name) if name in OBJECTIVES else len(OBJECTIVES)), name


def is_peer(policy: str) -> bool:
    return policy not in (DUALMAP, BOUND)


class Verdict(NamedTuple):
    """dualmap over all cells at one target, as ratios of capacity; means are geometric.

    peer: the one policy, other than dualmap and the bound, that does best over all cells.
    worst_cell: where dualmap does worst against the best peer of that very cell.
    """

    target: float
    cells: int
    to_paper: float
    paper_cells: int
    to_peer: float
    peer: str
    peer_cells: int
    to_best: float
    worst: Estimate
    worst_cell: Cell
    worst_peer: str


def verdict(capacities: Capacities, target: float) -> Verdict | None:
    """None where no cell has both dualmap and a peer."""
    against_best: list[tuple[float, Cell, str, Estimate]] = []
    ratios: dict[str, list[float]] = defaultdict(list)
    for cell in capacities.cells:
        best = capacities.best_peer(cell, target)
        if best is None:
            continue
        found = capacities.ratio(cell, target, DUALMAP, best)
        if isnan(found.mean):
            continue
        against_best.append((found.mean, cell, best, found))
        for peer in filter(is_peer, capacities.policies(cell, target)):
            value = capacities.ratio(cell, target, DUALMAP, peer).mean
            if not isnan(value):
                ratios[peer].append(value)
    if not against_best:
        return None
    most = max(len(values) for values in ratios.values())  # a peer that skipped the hard cells must not win by that
    peer = min((p for p, values in ratios.items() if len(values) == most), key=lambda p: (geometric_mean(ratios[p]), p))
    _, cell, worst_peer, worst = min(against_best, key=lambda entry: entry[0])
    return Verdict(
        target,
        len(against_best),
        geometric_mean(ratios[PAPER]),
        len(ratios[PAPER]),
        geometric_mean(ratios[peer]),
        peer,
        len(ratios[peer]),
        geometric_mean(value for value, *_ in against_best),
        worst,
        cell,
        worst_peer,
    )


def standing(capacities: Capacities, runs: Sequence[StudyRun], target: float = TARGETS[0]) -> list[str]:
    """All policies: dualmap, then by mean ratio to the best peer of each cell, the bound last.

    A policy that lacks cells comes after those that have all: its mean may be that of the easy ones.
    """
    score: dict[str, list[float]] = {run.policy: [] for run in runs if run.experiment is Experiment.CELLS}
    for cell in capacities.cells:
        best = capacities.best_peer(cell, target)
        for policy in capacities.policies(cell, target):
            score.setdefault(policy, [])
            if best is not None:
                score[policy].append(capacities.ratio(cell, target, policy, best).mean)
    means = {policy: geometric_mean(values) for policy, values in score.items()}

    known = {policy: sum(not isnan(value) for value in values) for policy, values in score.items()}
    most = max((n for policy, n in known.items() if is_peer(policy)), default=0)

    def order(policy: str) -> tuple[int, bool, float, str]:
        place = {DUALMAP: 0, BOUND: 2}.get(policy, 1)
        return place, known[policy] < most, 1.0 if isnan(means[policy]) else -means[policy], policy

    return sorted(means, key=order)


def cell_order(cell: Cell) -> tuple[object, ...]:
    """The main trace first, prefill before full models, undisturbed before disturbed."""
    main = cell.trace != MAIN_TRACE
    return main, cell.trace, "prefill" not in cell.model, *cell[1:]


def main_cells(cells: Iterable[Cell]) -> list[Cell]:
    """One for each model: the main trace and size, one gateway, undisturbed; else the commonest trace and size. All by
    one objective, the first of those there are."""
    plain = [cell for cell in sorted(set(cells), key=cell_order) if not cell.disturbance and cell.gateways == 1]
    first = min((cell.objective for cell in plain), key=_objective_order, default="")
    plain = [cell for cell in plain if cell.objective == first]
    common = Counter((cell.trace, cell.instances) for cell in plain)
    if not common:
        return []
    main = (MAIN_TRACE, MAIN_INSTANCES)
    chosen = main if main in common else max(common, key=lambda key: common[key])
    found: dict[str, Cell] = {}
    for cell in plain:
        if (cell.trace, cell.instances) == chosen:
            found.setdefault(cell.model, cell)
    return list(found.values())


def plain_runs(study: Study, cell: Cell) -> list[StudyRun]:
    return [r for r in study.runs if r.cell == cell and not r.config and r.experiment is Experiment.CELLS]


def common_rate(runs: Sequence[StudyRun]) -> float:
    """The rate that most policies ran at; of several, the one that brings the peers' median nearest to 90 %.

    Well below that rate all policies look alike, far above it all have failed. nan without runs.
    """
    at: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        at[run.qps][run.policy].append(run.attainment)
    if not at:
        return nan
    most = max(map(len, at.values()))

    def distance(qps: float) -> float:
        means = sorted(mean(values) for policy, values in at[qps].items() if policy != BOUND)
        return abs(means[len(means) // 2] - TARGETS[0]) if means else 1.0

    return min((qps for qps in at if len(at[qps]) == most), key=lambda qps: (distance(qps), qps))


def at_rate(runs: Sequence[StudyRun], qps: float, slack: float = 0.03) -> dict[str, list[StudyRun]]:
    """For each policy and seed the run nearest to this rate, if within `slack` of it."""
    nearest: dict[tuple[str, int], StudyRun] = {}
    for run in runs:
        key = (run.policy, run.seed)
        if abs(run.qps - qps) <= slack * qps and (
            key not in nearest or abs(run.qps - qps) < abs(nearest[key].qps - qps)
        ):
            nearest[key] = run
    chosen: dict[str, list[StudyRun]] = defaultdict(list)
    for (policy, _), run in nearest.items():
        chosen[policy].append(run)
    return dict(chosen)


def mean_of(runs: Iterable[StudyRun], field: str) -> Estimate:
    return estimate(number(getattr(run, field)) for run in runs)


def curve(runs: Iterable[StudyRun]) -> list[tuple[float, float]]:
    """(rate, mean attainment) at the rates that half of the seeds or more ran at: one lucky seed is no point."""
    at: dict[float, dict[int, float]] = defaultdict(dict)
    for run in runs:
        at[run.qps][run.seed] = run.attainment
    seeds = {seed for by_seed in at.values() for seed in by_seed}
    shared = {qps: by_seed for qps, by_seed in at.items() if 2 * len(by_seed) >= len(seeds)}
    if len(shared) < 2:
        shared = at
    return [(qps, mean(by_seed.values())) for qps, by_seed in sorted(shared.items())]
