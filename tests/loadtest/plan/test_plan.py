"""Plans on worths that are known functions of the split."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dualmap.loadtest.plan.advice import advice
from dualmap.loadtest.plan.as_json import plan_record
from dualmap.loadtest.plan.page import plan_page
from dualmap.loadtest.plan.plan import Plan, make_plan
from dualmap.loadtest.plan.question import BySeed, Place, Question
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.plan.table import plan_table
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.loadtest.virtual.step_sizes import full_step_s

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


STEPS = (88, 144, 200)
MADE = replace(WINDOW, trace="synth:hot", limit=200)  # work that is there to be read


def stepped(at_144: float, *, split: float = 6.0, mixed: float = 4.0) -> Callable[..., float]:
    """Of small steps those of 144 tokens are best; of splits 6 + 2."""

    def worth(window: int, one: Split, seed: int) -> float:
        if one.step_tokens:
            return at_144 * (1.0 if one.step_tokens == 144 else 0.9)
        return hill(peak=6, height=split, mixed=mixed)(window, one, seed)

    return worth


def test_small_steps_that_serve_most_are_advised_with_what_they_rest_on_and_how_to_check_it() -> None:
    known = Known(stepped(7.5))
    plan = make_plan(Question([MADE], 0.9, step_tokens=STEPS), known)
    assert {split.step_tokens for _, split in known.looked_at} == {0, 144}
    first, second, third, *_ = advice(plan)
    assert first == (
        "8 mixed instances with steps of 144 tokens: 1.88 ± 0.00 times the requests of 8 mixed instances; "
        "6 + 2 loses 20%."
    )
    given = "--max-num-batched-tokens 144 --max-num-seqs 144"
    assert second == f"For steps of 144 tokens: vllm serve {given}."
    assert f"dualmap calibrate --url http://HOST:PORT {given} --out small-steps.yaml" in third
    assert "a step costs 0 ms besides its work there" in third
    spare_s = (7.5 / 6 - 1) * full_step_s(MADE, 144)
    assert f"At {1000 * spare_s:.1f} ms more, if not at less, they lose." in third
    small = plan_record(plan)["small_steps"]
    assert (small["step_tokens"], small["vllm_arguments"]) == (144, given)
    assert small["spare_step_s"] == pytest.approx(spare_s)
    assert [row[0] for row in plan_table(plan)[1:5]] == ["mixed", *(f"mixed, steps of {n} tokens" for n in STEPS)]
    assert plan_table(plan)[3][1:] == ["7.50 ± 0.00", "1.88 ± 0.00", "best"]


def test_of_small_steps_as_measured_nothing_is_left_to_check(tmp_path: Path) -> None:
    measured = tmp_path / "small-steps.yaml"
    measured.write_text("{max_num_batched_tokens: 144, max_num_seqs: 100}\n")
    plan = planned(stepped(7.5), step_tokens=[144], mixed_model=str(measured))
    assert advice(plan)[1] == "For steps of 144 tokens: vllm serve --max-num-batched-tokens 144 --max-num-seqs 100."
    assert not any("calibrate --url" in said for said in advice(plan))


@pytest.mark.parametrize(
    ("at_144", "split", "mixed", "expected"),
    [(5.0, 6.0, 4.0, "6 prefill + 2 decode: 1.50"), (4.05, 3.0, 4.0, "8 mixed instances, as they are: 4.00")],
)
def test_small_steps_that_are_not_best_or_gain_nothing_are_a_row_alone(
    at_144: float, split: float, mixed: float, expected: str
) -> None:
    plan = planned(stepped(at_144, split=split, mixed=mixed), step_tokens=STEPS)
    first, second, *_ = advice(plan)
    assert first.startswith(expected)
    assert "mixed, steps of 144 tokens " in first
    assert "vllm serve" not in second


def test_splits_near_the_best_split_are_looked_at_exactly_though_small_steps_are_far_ahead() -> None:
    luck = {6: 5.9, 7: 6.0}  # at the first look

    @dataclass
    class Lucky(Known):
        def screen(self, places: Iterable[Place]) -> Mapping[Place, float]:
            found = super().screen(places)
            return {place: luck.get(place[1].prefill, found[place]) for place in found}

    plan = make_plan(Question([MADE], 0.9, step_tokens=STEPS), Lucky(stepped(9.0)))
    assert {split.prefill for split in plan.exact_splits()} == {0, 6, 7}
    assert advice(plan)[0].endswith("; 6 + 2 loses 33%; 7 + 1 loses 44%.")


def test_small_steps_level_with_the_best_split_are_told_how_to_have() -> None:
    first, second, *_ = advice(planned(stepped(5.95), step_tokens=STEPS))
    assert first.startswith("6 prefill + 2 decode: ")
    assert "; mixed, steps of 144 tokens is level (0.99 ± 0.00)" in first
    assert second.startswith("For steps of 144 tokens: ")


def test_splits_of_many_instances_are_halved_though_small_steps_are_best() -> None:
    def worth(window: int, split: Split, seed: int) -> float:
        return 99.0 if split.step_tokens else 60.0 - abs(split.prefill - 45) if split.prefill else 30.0

    large = replace(MADE, instances=64)
    plan = make_plan(Question([large], 0.9, step_tokens=STEPS), Known(worth))
    assert [split for split in plan.exact_splits() if split.prefill and abs(split.prefill - 45) <= 2]
    assert plan.best(0).step_tokens


def test_of_windows_the_steps_are_looked_at_that_lose_least_over_all() -> None:
    worths = {88: (7.0, 7.0), 144: (7.5, 6.8), 200: (8.0, 2.0)}

    def worth(window: int, split: Split, seed: int) -> float:
        return worths[split.step_tokens][window] if split.step_tokens else changing(window, split, seed)

    plan = make_plan(Question([MADE] * 2, 0.9, step_tokens=STEPS), Known(worth))
    assert plan.small_steps == Split(8, step_tokens=144)
    heading, *rows = plan_table(plan)
    assert [name for name in heading if "steps" in name] == ["mixed, steps of 144 tokens"]
    assert len({len(row) for row in (heading, *rows)}) == 1
    assert advice(plan)[0].startswith("8 mixed instances with steps of 144 tokens for all windows")
    assert plan.spare_step_s() == pytest.approx((6.8 / 6.0 - 1) * full_step_s(MADE, 144))


def test_where_nothing_else_keeps_the_objective_no_step_is_too_dear() -> None:
    plan = make_plan(Question([MADE], 0.9, step_tokens=STEPS), Known(stepped(4.0, split=0.0, mixed=0.0)))
    assert "4.00 ± 0.00 requests/s, where 8 mixed instances keep the objective at no rate; " in advice(plan)[0]
    assert plan_record(plan)["small_steps"]["spare_step_s"] is None


def test_fewer_instances_keep_a_rate_by_small_steps() -> None:
    def worth(window: int, split: Split, seed: int) -> float:
        each = 1.0 if split.step_tokens else 0.5
        return min(1.0, split.instances * each / 5.0)

    plan = planned(worth, rates=[5.0], step_tokens=STEPS)
    assert plan.smallest == Split(5, step_tokens=88)
    assert plan.spare_step_s() is None
    assert "8 mixed instances with steps of 88 tokens: " in advice(plan)[0]


def test_the_fewest_instances_are_told_with_the_arguments_of_their_steps() -> None:
    """Eight instances keep the rate in any way."""

    def worth(window: int, split: Split, seed: int) -> float:
        return 1.0 if split.instances > 4 or split.step_tokens else 0.5

    assert planned(worth, rates=[5.0]).smallest == Split(5)
    first, fewest, given, *_ = advice(planned(worth, rates=[5.0], step_tokens=[144]))
    assert first.startswith("8 mixed instances, as they are: ")
    assert fewest.endswith(": 1 instance with steps of 144 tokens.")
    assert given.startswith("For steps of 144 tokens: vllm serve --max-num-batched-tokens 144")


def test_small_steps_that_alone_keep_the_target_are_told_how_to_have() -> None:
    plan = planned(lambda window, split, seed: 0.91 if split.step_tokens else 0.895, rates=[3.0], step_tokens=[144])
    assert plan.is_level(0, plan.mixed, plan.best(0))
    assert advice(plan)[0].startswith("8 mixed instances with steps of 144 tokens: 91.0% of 3 requests/s")
    assert advice(plan)[2].startswith("For steps of 144 tokens: ")


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
    plan = planned(worth, windows=windows, step_tokens=STEPS, **more)
    record = json.loads(json.dumps(plan_record(plan), allow_nan=False))
    assert len(record["windows"]) == windows
    assert record["fixed"][0]["loses"] == pytest.approx(plan.losses()[0].mean)
    assert all(len(window["splits"]) == len(plan.splits()) for window in record["windows"])
    page = plan_page(plan)
    assert "<svg" in page
    assert "nan" not in page
    for said in advice(plan):
        assert said.split(",")[0] in page
