"""Cells of a study whose instances have roles."""

from fractions import Fraction

from dualmap.loadtest.study.file import StudyCapacity
from dualmap.loadtest.study.splits import split_rows
from dualmap.loadtest.study.tables import UNKNOWN, Capacities
from dualmap.loadtest.study.text import NONE, cell_name, markdown_report, split_table, text_report
from tests.loadtest.study.study_rows import capacity, study


def role_capacity(qps: float | None, seed: int, prefill: int, decode: int, **other: object) -> StudyCapacity:
    return capacity("dualmap", qps, seed, prefill=prefill, decode=decode, experiment="roles", **other)


def test_splits_are_compared_within_seeds_with_as_many_instances_that_do_both():
    rows = [role_capacity(qps, seed, 0, 0) for seed, qps in enumerate((4.0, 5.0))]
    rows += [role_capacity(qps, seed, 6, 2) for seed, qps in enumerate((6.0, 10.0))]
    rows += [role_capacity(qps, seed, 2, 6) for seed, qps in enumerate((1.0, None))]
    rows += [role_capacity(3.0, 0, 4, 4, trace="without mixed ones")]
    found = study(capacity("dualmap", 99.0), *rows)
    (row,) = split_rows(found)
    assert (row.cell, row.mixed.mean, row.best) == (rows[0].cell, 4.5, Fraction(3))
    assert row.to_mixed[:2] == (1.75, 0.25)
    table = [["work", "mixed", "1:3", "3:1", "best / mixed"], ["t · m · 8 instances", "4.50 ± 0.50", "1.00"]]
    table[1] += ["8.00 ± 2.00", "1.75 ± 0.25"]
    assert split_table(found) == table
    assert "1.75 ± 0.25" in text_report(found)
    assert "| t · m · 8 instances | 4.50 ± 0.50 | 1.00 |" in markdown_report(found)


def test_small_steps_of_mixed_instances_are_compared_with_the_best_split():
    rows = [role_capacity(4.0, seed, 0, 0) for seed in (0, 1)]
    rows += [role_capacity(qps, seed, 6, 2) for seed, qps in enumerate((6.0, 10.0))]
    rows += [role_capacity(qps, seed, 0, 0, step_tokens=144) for seed, qps in enumerate((9.0, 10.0))]
    others = [role_capacity(2.0, 0, prefill, prefill, trace="without") for prefill in (0, 4)]
    row, without = split_rows(study(*rows, *others))
    assert (row.mixed.mean, row.to_mixed.mean) == (4.0, 2.0)
    assert (row.small_steps[:2], row.small_to_best[:2]) == ((9.5, 0.5), (1.25, 0.25))
    assert (without.small_steps, without.small_to_best) == (UNKNOWN, UNKNOWN)
    table = split_table(study(*rows, *others))
    assert table[0][-2:] == ["mixed, small steps", "small steps / best split"]
    assert [line[-2:] for line in table[1:]] == [["9.50 ± 0.50", "1.25 ± 0.25"], [NONE, NONE]]
    assert cell_name(rows[-1].cell) == "t · m · 8 instances · steps of 144 tokens"


def test_instances_with_roles_are_cells_of_their_own():
    mixed, split = (capacity("dualmap", 4.0, prefill=prefill, decode=prefill) for prefill in (0, 4))
    paced = capacity("dualmap", 3.0, objective="ttft+tpot", tpot_s=0.03)
    found = Capacities([mixed, split, paced])
    assert {cell_name(cell).removeprefix("t · m · 8 instances") for cell in found.cells} == {
        "",
        " · 4 prefill + 4 decode",
        " · ttft+tpot · 30 ms a token",
    }
