"""What background planning is shown. A token is a millisecond; above 5 s of backlog an instance is hot."""

import pytest

from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.take_snapshot import MAX_HOT_SHOWN, MAX_WAITING_SHOWN


@pytest.fixture
def busy(script):
    """Instance a runs `now` and has 3 x 2000 tokens waiting for it; b and c are idle."""
    core = script("a", "b", "c", slo_aware=False)  # so that they stay where they are cached
    shared = core.prompt("a", "b", blocks=4)
    core.arrive("now", 2000, blocks=shared)
    for i in range(3):
        core.arrive(f"r{i}", 4048, blocks=shared)
    return core


def test_there_is_nothing_to_plan_while_no_instance_is_hot(script):
    core = script("a", "b")
    assert core.core.snapshot(core.now) is None
    shared = core.prompt("a")
    core.arrive("r0", 2000, blocks=shared)
    core.arrive("r1", 2000, blocks=shared)
    assert core.view("a").waiting_count == 1
    assert core.core.snapshot(core.now) is None


def test_there_is_nothing_to_plan_while_nothing_waits(script):
    core = script("a", "b")
    core.arrive("r", 50_000)
    assert core.core.snapshot(core.now) is None


def test_the_hot_instance_is_shown_with_what_waits_for_it_in_queue_order(busy):
    snapshot = busy.core.snapshot(busy.now)
    assert snapshot.version == busy.core.version
    assert [(i.instance_id, i.backlog_tokens) for i in snapshot.instances] == [("a", 8000), ("b", 0), ("c", 0)]
    assert [w.request_id for w in snapshot.waiting] == ["r0", "r1", "r2"]
    assert [w.ahead_tokens for w in snapshot.waiting] == [2000, 4000, 6000]
    first = snapshot.waiting[0]
    assert (first.instance_id, first.candidates, first.ttft_slo_s) == ("a", ("a", "b"), 5.0)
    assert first.work_tokens == {"a": 2000, "b": 4048, "c": 4048}


def test_the_objective_of_a_request_without_one_is_the_configured_one(script):
    core = script("a", "b", ttft_slo_s=3.0, slo_aware=False)
    shared = core.prompt("a", blocks=8)
    for i in range(4):
        core.arrive(f"r{i}", 6000, blocks=shared)
    assert {w.ttft_slo_s for w in core.core.snapshot(core.now).waiting} == {3.0}


def test_a_draining_instance_is_not_offered(busy):
    busy.drain("b")
    snapshot = busy.core.snapshot(busy.now)
    assert all("b" not in w.work_tokens for w in snapshot.waiting)
    assert "b" not in {i.instance_id for i in snapshot.instances}


def test_there_is_nothing_to_plan_without_a_second_ready_instance(busy):
    busy.lose("b")
    busy.lose("c")
    assert busy.core.snapshot(busy.now) is None


def test_an_instance_that_failed_the_request_is_not_offered(script):
    core = script("a", "b")
    core.arrive("now", 6000, blocks=core.prompt("b"))
    core.arrive("r", 1000, blocks=core.prompt("a"))
    core.fail("r")
    (waiting,) = core.core.snapshot(core.now).waiting
    assert (waiting.request_id, waiting.work_tokens) == ("r", {"b": 1000})


def test_a_request_that_has_moved_as_often_as_it_may_is_not_shown_but_is_ahead_of_others(script):
    core = script(
        "a",
        "b",
        "c",
        max_moves_per_request=1,
        deadline_order=False,
        recompute_price_idle=0.0,
        recompute_price_busy=0.0,
        slo_aware=False,
    )
    core.arrive("c-now", 6000, blocks=core.prompt("c"))
    for i in range(6):
        core.arrive(f"a{i}", 5000, blocks=core.prompt("a"))
    core.move("a5", "a", "c")
    assert core.attempt("a5").moves == 1
    core.now += 1.0
    core.arrive("c-last", 2000, blocks=core.prompt("c"))
    shown = {w.request_id: w for w in core.core.snapshot(core.now).waiting}
    assert "a5" not in shown
    assert shown["c-last"].ahead_tokens == 6000 + 5000


def test_a_snapshot_of_a_long_queue_is_bounded(script):
    core = script("a", "b", slo_aware=False, adaptive_key=False)
    shared = core.prompt("a", blocks=8)
    for i in range(MAX_WAITING_SHOWN + 50):
        core.arrive(f"{i:04}", 8000, blocks=shared)
    snapshot = core.core.snapshot(core.now)
    assert [w.request_id for w in snapshot.waiting][:2] == ["0001", "0002"]
    assert len(snapshot.waiting) == MAX_WAITING_SHOWN


def test_a_plan_on_a_real_snapshot_is_applied_and_relieves_the_hot_instance(script):
    core = script("a", "b", slo_aware=False)
    shared = core.prompt("a", blocks=1)
    for i in range(12):
        core.arrive(f"r{i:02}", 1500, blocks=shared)
    before = core.view("a").backlog_s
    moves = plan_rebalance(core.core.snapshot(core.now), core.core.config)
    assert moves
    for move in moves:
        core.move(move.request_id, move.from_instance_id, move.to_instance_id)
    assert core.core.stats.moves_applied == len(moves)
    assert core.view("a").backlog_s < before


def test_a_request_with_a_tight_objective_makes_its_instance_hot(script):
    core = script("a", "b", slo_aware=False)
    shared = core.prompt("a")
    core.arrive("now", 2000, blocks=shared)
    core.arrive("patient", 2000, blocks=shared)
    assert core.core.snapshot(core.now) is None
    core.arrive("urgent", 2000, blocks=shared, ttft_slo_s=0.5)
    assert {w.request_id for w in core.core.snapshot(core.now).waiting} == {"patient", "urgent"}


def test_only_the_hottest_instances_are_shown(script):
    names = "abcdefgh"
    core = script(*names, slo_aware=False)
    for number, name in enumerate(names[:6]):
        for i in range(3):
            core.arrive(f"{name}{i}", 6000 + 100 * number, blocks=core.prompt(name))
    shown = {w.instance_id for w in core.core.snapshot(core.now).waiting}
    assert shown == set(names[6 - MAX_HOT_SHOWN : 6])
