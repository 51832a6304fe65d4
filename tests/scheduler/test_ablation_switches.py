"""Each technique has a switch, and the switch changes what it says it changes."""

import pytest

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.events import BlocksStored
from dualmap.scheduler.policies import configured_for
from dualmap.scheduler.request import ChoiceReason


@pytest.mark.parametrize(("on", "candidates"), [(True, ("a", "b")), (False, ("a",))])
def test_dual_mapping_gives_a_second_candidate(script, on: bool, candidates: tuple[str, ...]):
    core = script("a", "b", "c", dual_mapping=on)
    core.arrive("r", blocks=core.prompt("a", "b"))
    assert core.attempt("r").candidates == candidates


@pytest.mark.parametrize(("on", "pairs"), [(True, 10), (False, 1)])
def test_the_adaptive_key_spreads_a_hot_prefix_over_more_pairs(script, on: bool, pairs: int):
    core = script(*"abcdefgh", adaptive_key=on)
    seen = set()
    for i in range(200):
        core.arrive(f"r{i}", 100, blocks=hash_trace_ids((1, 1000 + i)))
        seen.add(core.attempt(f"r{i}").candidates)
        core.finish(f"r{i}")
    assert len(seen) == 1 if pairs == 1 else len(seen) > pairs


@pytest.mark.parametrize(("on", "second"), [(True, ("b", ChoiceReason.SWITCHED)), (False, ("a", ChoiceReason.WARM))])
def test_slo_awareness_leaves_the_warm_instance_when_it_would_miss_the_slo(script, on: bool, second):
    core = script("a", "b", slo_aware=on)
    core.arrive("r0", 20_000, blocks=core.prompt("a", blocks=1))
    core.arrive("r1", 1000, blocks=core.prompt("a", blocks=1))
    attempt = core.attempt("r1")
    assert (attempt.instance_id, attempt.reason) == second


@pytest.mark.parametrize(("on", "waiting", "dispatched"), [(True, 1, 1), (False, 0, 2)])
def test_the_gateway_queue_holds_what_the_instance_cannot_start(script, on: bool, waiting: int, dispatched: int):
    core = script("a", gateway_queue=on)
    commands = core.arrive("r0", 5000) + core.arrive("r1", 5000)
    assert core.view("a").waiting_count == waiting
    assert len(commands) == dispatched


@pytest.mark.parametrize("on", [True, False])
def test_rebalancing_lets_what_waits_move(script, on: bool):
    core = script("a", "b", slo_aware=False, adaptive_key=False, rebalancing=on)
    for i in range(10):
        core.arrive(f"r{i}", 2000, blocks=core.prompt("a", blocks=1))
    assert (core.core.snapshot(core.now) is not None) is on
    core.move("r9", "a", "b")
    assert core.core.stats.moves_applied == on
    assert core.core.stats.moves_refused == (not on)


@pytest.mark.parametrize(("on", "expected"), [(True, ("c", ChoiceReason.WARM)), (False, ("a", ChoiceReason.BALANCED))])
def test_an_instance_that_holds_the_prefix_is_found_wherever_it_is(script, on: bool, expected):
    core = script("a", "b", "c", find_holders=on)
    blocks = core.prompt("a", "b", blocks=4)
    core.send(BlocksStored("c", blocks))
    core.arrive("r", 3000, blocks=blocks)
    attempt = core.attempt("r")
    assert (attempt.instance_id, attempt.reason) == expected
    assert attempt.candidates == ("a", "b")


def test_what_many_share_leads_nobody_away_from_the_candidates(script):
    core = script("a", "b", "c")
    blocks = core.prompt("a", "b", blocks=4)
    core.send(BlocksStored("c", blocks[:1]))  # no more than the key
    core.arrive("r", 3000, blocks=blocks)
    assert core.attempt("r").instance_id == "a"


@pytest.mark.parametrize(("on", "expected"), [(True, "c"), (False, "b")])
def test_where_both_candidates_are_busy_the_least_loaded_instance_is_an_escape(script, on: bool, expected: str):
    core = script("a", "b", "c", escape=on)
    core.arrive("r0", 20_000, blocks=core.prompt("a", "b", other_than=1))
    core.arrive("r1", 19_000, blocks=core.prompt("b", "a", other_than=1))
    core.arrive("r2", 1000, blocks=core.prompt("a", "b"))
    assert [core.attempt(f"r{i}").instance_id for i in range(3)] == ["a", "b", expected]


@pytest.mark.parametrize(("on", "next_one"), [(True, "short"), (False, "long")])
def test_in_the_order_of_deadlines_who_would_be_late_anyway_makes_room(script, on: bool, next_one: str):
    core = script("a", deadline_order=on, length_handicap=0.0)
    core.arrive("now", 1000)
    core.arrive("long", 5000)
    core.arrive("short", 1000)
    core.now += 1.0
    assert [c.request_id for c in core.first_token("now")] == [next_one]


@pytest.mark.parametrize(("on", "order"), [(True, ["short", "long"]), (False, ["long", "short"])])
def test_only_in_the_order_of_deadlines_a_long_prompt_has_a_handicap(script, on: bool, order: list[str]):
    core = script("a", deadline_order=on)
    core.arrive("now", 1000)
    core.arrive("long", 2000)
    core.arrive("short", 100)
    assert [attempt.request.id for attempt in core.view("a").waiting] == order


@pytest.mark.parametrize("on", [True, False])
def test_taking_gives_work_to_an_instance_that_would_idle(script, on: bool):
    core = script("a", "b", slo_aware=False, taking=on)
    shared = core.prompt("a", blocks=1)
    core.arrive("r0", 20_000, blocks=shared)
    core.arrive("r1", 1000, blocks=shared)
    core.arrive("other", 10, blocks=core.prompt("b"))
    assert core.attempt("r1").instance_id == "a"
    core.finish("other")
    assert core.attempt("r1").instance_id == ("b" if on else "a")
    assert core.core.stats.requests_taken == on


def test_every_technique_is_on_by_default():
    config = SchedulerConfig()
    assert config.policy == "dualmap"
    assert all((config.dual_mapping, config.adaptive_key, config.slo_aware, config.gateway_queue, config.rebalancing))
    assert all((config.find_holders, config.escape, config.deadline_order, config.taking))


def test_the_published_dualmap_has_none_of_what_is_added():
    config = configured_for(SchedulerConfig(policy="dualmap_paper"))
    assert not any((config.deadline_order, config.taking))
    assert config.recompute_price_idle == config.recompute_price_busy == 0.0
    assert config.hot_slo_fraction == 0.5
    assert configured_for(SchedulerConfig()) == SchedulerConfig()
