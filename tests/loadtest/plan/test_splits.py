"""Which ways to divide instances are looked at."""

import pytest

from dualmap.loadtest.plan.splits import Split, finer_splits, first_splits, like


@pytest.mark.parametrize(
    ("instances", "prefill"),
    [(2, [0, 1]), (3, [0, 1, 2]), (9, list(range(9))), (16, list(range(0, 16, 2))), (64, list(range(0, 64, 8)))],
)
def test_few_instances_are_divided_in_every_way_and_many_in_eight_steps(instances: int, prefill: list[int]) -> None:
    assert first_splits(instances) == [Split(instances, n) for n in prefill]


@pytest.mark.parametrize("instances", range(2, 140))
def test_each_role_has_an_instance(instances: int) -> None:
    for split in first_splits(instances):
        if split.prefill:
            assert (split.prefill + split.decode, min(split.prefill, split.decode) > 0) == (instances, True)


@pytest.mark.parametrize("peak", [1, 5, 23, 48, 63])
def test_halving_ends_beside_the_peak_of_a_hill(peak: int) -> None:
    known = set(first_splits(64))
    for _ in range(10):
        best = min(known, key=lambda split: (not split.prefill, abs(split.prefill - peak)))
        if not (fresh := finer_splits(known, best)):
            break
        known |= set(fresh)
    else:
        pytest.fail("no end")
    assert abs(best.prefill - peak) <= 2
    assert len(known) <= 16


def test_nothing_lies_between_splits_that_differ_by_one_instance_nor_beside_mixed_ones() -> None:
    assert finer_splits(first_splits(8), Split(8, 6)) == []
    assert finer_splits(first_splits(64), Split(64)) == []


@pytest.mark.parametrize(
    ("split", "instances", "prefill"),
    [((8, 6), 4, [0, 2, 3]), ((8, 6), 16, [0, 11, 12, 13]), ((8, 4), 1, [0]), ((8, 0), 6, [0, 2, 3, 4])],
)
def test_another_size_is_divided_alike(split: tuple[int, int], instances: int, prefill: list[int]) -> None:
    assert [one.prefill for one in like(Split(*split), instances)] == prefill


def test_small_steps_are_those_of_mixed_instances_of_any_number() -> None:
    assert like(Split(8, 6), 4, [144])[:2] == [Split(4), Split(4, step_tokens=144)]
    assert finer_splits(first_splits(64), Split(64, step_tokens=144)) == []


def test_a_split_says_who_does_what() -> None:
    splits = [Split(8, 6), Split(8), Split(8, step_tokens=144), Split(1)]
    assert [split.in_words for split in splits] == [
        "6 prefill + 2 decode",
        "8 mixed instances",
        "8 mixed instances with steps of 144 tokens",
        "1 instance",
    ]
    assert [split.name for split in splits] == ["6 + 2", "mixed", "mixed, steps of 144 tokens", "mixed"]
