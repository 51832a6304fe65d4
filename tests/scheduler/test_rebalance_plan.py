"""Plans made on hand-written snapshots. A token is a millisecond; above 5000 of them an instance is hot."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.snapshot import InstanceSnapshot, Move, Snapshot, WaitingSnapshot

CONFIG = SchedulerConfig()


def instances(**backlogs: int) -> tuple[InstanceSnapshot, ...]:
    return tuple(InstanceSnapshot(i, tokens, 0.001) for i, tokens in backlogs.items())


def waits(request_id: str, ahead: int, at: str = "a", slo_s: float = 5.0, candidates: str = "ab", **uncached: int):
    return WaitingSnapshot(
        request_id, at, slo_s, ahead_tokens=ahead, work_tokens=uncached, candidates=tuple(candidates)
    )


def queue(tokens: Iterable[int], at: str = "a", others: str = "b", booked: int = 0, **fields) -> list[WaitingSnapshot]:
    """Requests r0, r1, ... of these lengths, nothing of them cached anywhere."""
    waiting = []
    for i, length in enumerate(tokens):
        waiting.append(waits(f"{at}-r{i}", booked, at, **{at: length}, **dict.fromkeys(others, length), **fields))
        booked += length
    return waiting


def plan(
    snapshots: tuple[InstanceSnapshot, ...],
    waiting: list[WaitingSnapshot],
    config: SchedulerConfig = CONFIG,
    recompute_price: float = 0.0,
):
    return plan_rebalance(Snapshot(1, snapshots, tuple(waiting), recompute_price=recompute_price), config)


def where(moves: list[Move]) -> list[tuple[str, str]]:
    return [(move.request_id, move.to_instance_id) for move in moves]


@pytest.mark.parametrize(
    ("backlog", "moved"), [(0, 0), (4999, 0), (5000, 0), (5001, 1), (6000, 1), (6001, 2), (8000, 3)]
)
def test_requests_leave_until_the_excess_is_gone(backlog: int, moved: int):
    waiting = queue([1000] * (backlog // 1000), booked=backlog % 1000)
    assert len(plan(instances(a=backlog, b=0), waiting)) == moved


def test_the_request_that_gains_most_leaves_first():
    waiting = queue([1000, 3000, 2000])  # each gains what is ahead of it
    assert where(plan(instances(a=6000, b=0), waiting)) == [("a-r2", "b")]


def test_a_request_that_has_its_prefix_here_stays_and_another_leaves():
    waiting = [waits("cold", 4000, a=2000, b=2000), waits("warm", 6000, a=100, b=8000)]
    assert where(plan(instances(a=6100, b=0), waiting)) == [("cold", "b")]


def test_the_gain_includes_recomputation_and_its_price():
    waiting = [waits("r", 6000, a=500, b=1500)]
    (move,) = plan(instances(a=6500, b=200), waiting)
    assert move == Move("r", "a", "b", gain_s=move.gain_s)
    assert move.gain_s == pytest.approx(6.5 - 1.7)
    (move,) = plan(instances(a=6500, b=200), waiting, recompute_price=4.0)
    assert move.gain_s == pytest.approx(6.5 - 1.7 - 4 * 1.0)
    assert plan(instances(a=6500, b=200), waiting, recompute_price=5.0) == []


@pytest.mark.parametrize(("shared_s", "extra_s"), [({}, 1.0), ({"b": 0.5}, 0.5), ({"a": 0.2}, 1.2)])
def test_what_is_shared_with_others_there_costs_nothing_and_here_would_be_lost(shared_s, extra_s):
    waiting = [replace(waits("r", 6000, a=500, b=1500), shared_s=shared_s)]
    (move,) = plan(instances(a=6500, b=200), waiting, recompute_price=2.0)
    assert move.gain_s == pytest.approx(6.5 - 1.7 - 2 * extra_s)


@pytest.mark.parametrize(("least_s", "moved"), [(0.5, True), (0.75, False)])
def test_the_least_worth_having_is_enough(least_s: float, moved: bool):
    shown = (InstanceSnapshot("a", 40, 0.25), InstanceSnapshot("b", 36, 0.25))
    waiting = [waits("r", 38, slo_s=9.5, a=2, b=2)]  # 10 s here, 9.5 s there, to the last bit
    assert bool(plan(shown, waiting, SchedulerConfig(min_move_gain_s=least_s))) is moved


def test_of_those_that_gain_alike_the_first_leaves():
    waiting = [waits("x", 5000, a=1000, b=1000), waits("y", 5000, a=1000, b=1000)]
    assert where(plan(instances(a=6000, b=0), waiting, SchedulerConfig(max_moves=1))) == [("x", "b")]


@pytest.mark.parametrize(("there", "moved"), [(0, True), (4899, True), (4901, False), (5000, False)])
def test_a_gain_below_the_least_worth_having_is_left_alone(there: int, moved: bool):
    waiting = [waits("r", 5000, a=1000, b=1000)]
    assert bool(plan(instances(a=6000, b=there), waiting)) is moved


def test_a_move_makes_the_next_one_there_less_attractive():
    waiting = queue([2000] * 5)
    moves = plan(instances(a=10_000, b=3000), waiting)
    # r4 would start 8 s sooner than here; once it is there, b holds 5000 tokens and the rest gain less, or nothing.
    assert where(moves) == [("a-r4", "b"), ("a-r3", "b")]
    assert [m.gain_s for m in moves] == pytest.approx([10.0 - 5.0, 8.0 - 7.0])


def test_those_behind_a_request_that_left_have_less_ahead_of_them():
    waiting = [waits("front", 4000, a=2000, b=0), waits("back", 6000, a=2000, b=5000)]
    moves = plan(instances(a=8000, b=0), waiting)
    assert where(moves) == [("front", "b"), ("back", "b")]
    assert [m.gain_s for m in moves] == pytest.approx([6.0, 8.0 - 2.0 - 5.0])


@pytest.mark.parametrize(
    ("b", "c", "expected"),
    [
        (0, 0, "b"),
        (5000, 0, "b"),  # its other candidate is not hot, however idle the third one is
        (5001, 0, "c"),
        (5001, 1000, "c"),
        (5001, 1001, None),  # no third instance is nearly idle
        (9000, 2000, None),
    ],
)
def test_a_third_instance_takes_over_only_when_both_candidates_are_hot(b: int, c: int, expected: str | None):
    waiting = [waits("r", 8000, a=1000, b=1000, c=1000)]
    moves = plan(instances(a=9000, b=b, c=c), waiting)
    assert where(moves) == ([("r", expected)] if expected else [])


def test_hot_instances_do_not_swap_their_queues():
    waiting = queue([1000] * 8) + queue([1000] * 7, at="b", others="a")
    assert plan(instances(a=8000, b=7000), waiting) == []


def test_the_hottest_instance_is_relieved_first():
    waiting = queue([1000] * 6, others="c", candidates="ac") + queue([1000] * 8, at="b", others="c", candidates="bc")
    moves = plan(instances(a=6000, b=8000, c=0), waiting)
    assert where(moves) == [("b-r7", "c"), ("b-r6", "c"), ("b-r5", "c"), ("a-r5", "c")]


def test_the_hottest_is_the_one_that_takes_longest():
    shown = (InstanceSnapshot("a", 6000, 0.001), InstanceSnapshot("b", 2000, 0.004), InstanceSnapshot("c", 0, 0.001))
    waiting = [
        *queue([1000] * 6, others="c", candidates="ac"),
        waits("b-r", 1000, "b", candidates="bc", b=1000, c=1000),
    ]
    assert where(plan(shown, waiting, SchedulerConfig(max_moves=1))) == [("b-r", "c")]


def test_a_slow_instance_is_hot_with_fewer_tokens():
    slow_and_fast = (InstanceSnapshot("a", 2000, 0.004), InstanceSnapshot("b", 2000, 0.001))
    waiting = [waits("r", 1000, a=1000, b=1000)]
    (move,) = plan(slow_and_fast, waiting)
    assert move == Move("r", "a", "b", gain_s=move.gain_s)
    assert move.gain_s == pytest.approx(8.0 - 3.0)


@pytest.mark.parametrize(("slo_s", "moved"), [(1.0, True), (2.9, True), (3.0, False), (60.0, False)])
def test_each_request_is_judged_by_its_own_slo(slo_s: float, moved: bool):
    waiting = [waits("r", 2000, slo_s=slo_s, a=1000, b=1000)]
    assert bool(plan(instances(a=3000, b=0), waiting)) is moved


@pytest.mark.parametrize("max_moves", [1, 3, 16])
def test_one_plan_has_no_more_moves_than_it_may(max_moves: int):
    waiting = queue([100] * 100) + queue([100] * 100, at="c", others="d", candidates="cd")
    config = SchedulerConfig(max_moves=max_moves)
    moves = plan(instances(a=10_000, b=0, c=10_000, d=0), waiting, config)
    assert len(moves) == max_moves


def test_nothing_moves_where_there_is_nowhere_to_go():
    assert plan(instances(a=9000), [waits("r", 8000, a=1000)]) == []
    assert plan((), []) == []


def random_snapshot(rng: random.Random, recompute_price: float) -> Snapshot:
    shown = [InstanceSnapshot(i, rng.randrange(15_000), rng.choice((0.0005, 0.001, 0.004))) for i in "abcde"]
    waiting = []
    for instance in shown:
        ahead = rng.randrange(1000)
        for i in range(rng.randrange(20)):
            other = rng.choice([j for j in "abcde" if j != instance.instance_id])
            third = [j for j in "abcde" if j not in (instance.instance_id, other)]
            uncached = {j: rng.randrange(1, 3000) for j in (instance.instance_id, other, *rng.sample(third, 2))}
            slo_s = rng.choice((1.0, 5.0, 20.0))
            request_id = f"{instance.instance_id}-{i}"
            waiting.append(
                WaitingSnapshot(
                    request_id,
                    instance.instance_id,
                    slo_s,
                    ahead_tokens=ahead,
                    work_tokens=uncached,
                    candidates=(instance.instance_id, other),
                )
            )
            ahead += uncached[instance.instance_id]
    return Snapshot(1, tuple(shown), tuple(waiting), recompute_price=recompute_price)


@pytest.mark.parametrize("seed", range(30))
def test_any_plan_is_deterministic_and_keeps_its_rules(seed: int):
    config = SchedulerConfig(max_moves=10)
    snapshot = random_snapshot(random.Random(seed), float(seed % 3))
    moves = plan_rebalance(snapshot, config)
    assert moves == plan_rebalance(snapshot, config)
    waiting = {w.request_id: w for w in snapshot.waiting}
    assert len(moves) <= config.max_moves
    assert len({move.request_id for move in moves}) == len(moves)
    for move in moves:
        asked = waiting[move.request_id]
        assert move.from_instance_id == asked.instance_id != move.to_instance_id
        assert move.to_instance_id in asked.work_tokens
        assert move.gain_s >= config.min_move_gain_s
