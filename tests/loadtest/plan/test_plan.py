"""Plans on worths that are known functions of the split."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from dualmap.loadtest.plan.advice import advice
from dualmap.loadtest.plan.as_json import plan_record
from dualmap.loadtest.plan.page import plan_page
from dualmap.loadtest.plan.plan import Plan, make_plan
from dualmap.loadtest.plan.question import BySeed, Place, Question
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.plan.table import plan_table
from dualmap.loadtest.virtual.simulated_workload import Setup

WINDOW = Setup("day.jsonl", objective="ttft+tpot", tpot_s=0.03)


@dataclass
class Known:
    """worth: of a window, a split and a seed."""

    worth: Callable[[int, Split, int], float]
    looked_at: list[Place] = field(default_factory=list)

    def screen(self, places: Iterable[Place]) -> Mapping[Place, float]:
        return {place: self.worth(*place, 0) for place in places}

    def exactly(self, places: Iterable[Place], near: Mapping[Place, float], seeds: int) -> Mapping[Place, BySeed]:
        asked = list(places)
        self.looked_at += asked
        return {place: {seed: self.worth(*place, seed) for seed in range(seeds)} for place in asked}


def hill(peak: int, height: float, mixed: float, step: float = 1.0, noise: float = 0.0) -> Callable[..., float]:
    """A worth that falls by `step` with each instance away from the peak; every second seed is `noise` better."""

    def worth(window: int, split: Split, seed: int) -> float:
        own = height - step * abs(split.prefill - peak) if split.prefill else mixed
        return max(own, 0.0) * (1 + noise * (seed % 2))

    return worth


def planned(worth: Callable[..., float], *, windows: int = 1, **question: object) -> Plan:
    asked = {"target": 0.9, **question}
    find_smallest = "rates" in asked and windows == 1
    return make_plan(Question([WINDOW] * windows, **asked), Known(worth), find_smallest=find_smallest)


def test_the_best_split_is_named_with_its_gain_over_mixed_instances_and_what_others_lose() -> None:
    plan = planned(hill(peak=6, height=6.0, mixed=4.0, step=0.6))
    assert advice(plan)[0] == (
        "6 prefill + 2 decode: 1.50 ± 0.00 times the requests of 8 mixed instances; 5 + 3 loses 10%; 7 + 1 loses 10%."
    )
    assert plan_table(plan)[1] == ["mixed", "4.00 ± 0.00", "1.00 ± 0.00", ""]
    assert [row[0] for row in plan_table(plan) if row[1].startswith("~")] == ["1 + 7", "2 + 6", "3 + 5", "4 + 4"]


def test_only_what_is_near_the_best_is_looked_at_exactly() -> None:
    known = Known(hill(peak=6, height=6.0, mixed=4.0))
    make_plan(Question([WINDOW], 0.9), known)
    assert {split.prefill for _, split in known.looked_at} == {0, 6}


def test_mixed_instances_stay_where_no_split_serves_more() -> None:
    plan = planned(hill(peak=4, height=3.0, mixed=4.0))
    assert advice(plan)[0] == "8 mixed instances, as they are: 4.00 ± 0.00 requests/s; 4 + 4 loses 25%."


@pytest.mark.parametrize(
    ("seeds", "noise", "gain", "level"),
    [(3, 0.0, 1.015, True), (3, 0.0, 1.03, False), (1, 0.0, 1.04, True), (1, 0.0, 1.06, False)],
)
def test_a_gain_that_seeds_cannot_tell_from_none_is_level(seeds: int, noise: float, gain: float, level: bool) -> None:
    plan = planned(hill(peak=6, height=4.0 * gain, mixed=4.0, step=2, noise=noise), seeds=seeds)
    assert plan.is_level(0, plan.mixed, plan.best(0)) is level
    assert advice(plan)[0].startswith("8 mixed instances, as they are" if level else "6 prefill + 2 decode")


def test_a_gain_in_one_seed_of_three_is_level() -> None:
    luck = {0: 5.0, 1: 4.1, 2: 3.9}
    plan = planned(lambda window, split, seed: luck[seed] if split.prefill == 6 else 4.0 if not split.prefill else 1.0)
    assert "6 + 2 is level (1.08 ± " in advice(plan)[0]


def test_instances_that_keep_the_objective_at_no_rate_are_said_to() -> None:
    assert advice(planned(hill(peak=6, height=4.0, mixed=0.0, step=9)))[0] == (
        "6 prefill + 2 decode: 4.00 ± 0.00 requests/s, where 8 mixed instances keep the objective at no rate."
    )
    plan = planned(lambda window, split, seed: 0.0)
    assert advice(plan)[0] == "No split of 8 instances keeps the objective for a request."
    assert {row[1] for row in plan_table(plan)[1:]} == {"none"}


def changing(window: int, split: Split, seed: int) -> float:
    """Early work is for those that prefill, late work for those that decode."""
    return hill(peak=6 if window == 0 else 4, height=6.0, mixed=4.2, step=0.5)(window, split, seed)


def test_a_day_that_changes_shows_what_a_fixed_split_loses() -> None:
    plan = planned(changing, windows=2)
    assert [plan.best(window).prefill for window in (0, 1)] == [6, 4]
    fixed = plan.losses()[0]
    assert (fixed.split.prefill, round(fixed.mean, 3), round(fixed.worst, 3)) == (5, 0.083, 0.083)
    first, mixed, *_ = advice(plan)
    assert first.startswith("5 prefill + 3 decode, if the split stays: it loses 8% on average and 8% in the worst")
    assert mixed == "8 mixed instances lose 30% on average and 30% in the worst window."
    heading, *rows = plan_table(plan)
    assert [row[-1] for row in rows] == ["6 + 2", "4 + 4", "5 + 3", "5 + 3"]
    assert len({len(row) for row in (heading, *rows)}) == 1


def test_a_split_that_is_near_no_best_but_steady_is_looked_at() -> None:
    def worth(window: int, split: Split, seed: int) -> float:
        return 16.0 - (split.prefill - (6, 2)[window]) ** 2 if split.prefill else 1.0

    plan = planned(worth, windows=2)
    assert {split.prefill for split in plan.exact_splits()} == {0, 1, 2, 3, 4, 5, 6, 7}
    assert plan.losses()[0].split.prefill == 4


def test_a_split_that_is_best_in_every_window_stays() -> None:
    plan = planned(hill(peak=6, height=6.0, mixed=4.0), windows=3)
    assert advice(plan)[0] == "6 prefill + 2 decode for all windows: nothing else serves more in any of them."


def share_at(qps: float, best: int) -> Callable[..., float]:
    """Of each 4 instances, 3 should prefill; so divided, each bears one request a second."""

    def worth(window: int, split: Split, seed: int) -> float:
        away = abs(split.prefill - round(split.instances * 0.75)) if split.prefill else best
        return min(1.0, max(split.instances - away, 0) / qps)

    return worth


@pytest.mark.parametrize(("qps", "smallest"), [(7.0, Split(7, 5)), (13.0, Split(12, 9)), (1.0, Split(1))])
def test_the_fewest_instances_for_a_rate_are_found(qps: float, smallest: Split) -> None:
    plan = planned(share_at(qps, best=2 if qps > 1 else 0), rates=[qps])
    assert plan.smallest == smallest
    assert advice(plan)[1].endswith(f"within the objective: {smallest.in_words}.")


def test_a_split_that_alone_keeps_the_target_is_named_though_mixed_instances_are_level() -> None:
    plan = planned(lambda window, split, seed: 0.91 if split.prefill == 6 else 0.895, rates=[3.0], seeds=2)
    assert plan.is_level(0, plan.mixed, plan.best(0))
    assert advice(plan)[0].startswith(
        "6 prefill + 2 decode: 91.0% of 3 requests/s are within the objective, with 8 mixed instances 89.5%; "
    )


def test_a_rate_that_no_fleet_bears_ends_the_search() -> None:
    plan = planned(lambda window, split, seed: 0.5, rates=[3.0])
    assert plan.smallest is None
    assert advice(plan)[1].endswith("none that was looked at.")


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("rated", [False, True])
def test_every_plan_is_a_page_and_a_record(windows: int, rated: bool) -> None:
    worth = share_at(6.0, best=2) if rated else changing
    more = {"rates": [6.0] * windows} if rated else {}
    plan = planned(worth, windows=windows, **more)
    record = json.loads(json.dumps(plan_record(plan), allow_nan=False))
    assert len(record["windows"]) == windows
    assert record["fixed"][0]["loses"] == pytest.approx(plan.losses()[0].mean)
    assert all(len(window["splits"]) == len(plan.splits()) for window in record["windows"])
    page = plan_page(plan)
    assert "<svg" in page
    assert "nan" not in page
    for said in advice(plan):
        assert said.split(",")[0] in page
