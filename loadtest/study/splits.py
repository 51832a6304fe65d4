"""Instances that prefill and instances that decode, against as many that do both: capacities of each split."""

from collections import defaultdict
from fractions import Fraction
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.study.file import Cell, Experiment, Study
from dualmap.loadtest.study.tables import DUALMAP, TARGETS, Capacities, Estimate, estimate, paired_ratio


class SplitRow(NamedTuple):
    """Requests a second of one work at one size. cell: that of `mixed`, instances that do both. splits: by instances
    that prefill over those that decode. best: the split with the highest mean. to_mixed: its ratio, within seeds.
    small_steps: of mixed instances whose steps are as small as the pace asks for; small_to_best: their ratio to `best`.
    Both are UNKNOWN where those were not looked at."""

    cell: Cell
    mixed: Estimate
    splits: dict[Fraction, Estimate]
    best: Fraction
    to_mixed: Estimate
    small_steps: Estimate
    small_to_best: Estimate


def split_rows(study: Study) -> list[SplitRow]:
    """Of works that have both mixed instances and a split."""
    capacities = Capacities(study.capacities, Experiment.ROLES)
    works: dict[Cell, list[Cell]] = defaultdict(list)
    stepped: dict[Cell, Cell] = {}
    for cell in capacities.cells:
        if cell.step_tokens:
            stepped[cell._replace(step_tokens=0)] = cell
        elif cell.prefill:
            works[cell._replace(prefill=0, decode=0)].append(cell)
    rows = []
    for work, cells in works.items():
        by_seed = {_ratio(cell): capacities.by_seed(cell, TARGETS[0], DUALMAP) for cell in cells}
        splits = {_ratio(cell): capacities.of(cell, TARGETS[0], DUALMAP) for cell in cells}
        known = [split for split, value in splits.items() if not isnan(value.mean)]
        mixed = capacities.by_seed(work, TARGETS[0], DUALMAP)
        if known and mixed:
            best = max(known, key=lambda split: (splits[split].mean, split))
            small = capacities.by_seed(stepped[work], TARGETS[0], DUALMAP) if work in stepped else {}
            rows.append(
                SplitRow(
                    cell=work,
                    mixed=estimate(mixed.values()),
                    splits=splits,
                    best=best,
                    to_mixed=paired_ratio(by_seed[best], mixed),
                    small_steps=estimate(small.values()),
                    small_to_best=paired_ratio(small, by_seed[best]),
                )
            )
    return rows


def _ratio(cell: Cell) -> Fraction:
    return Fraction(cell.prefill, cell.decode)
