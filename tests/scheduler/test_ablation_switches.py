"""Each technique has a switch, and the switch changes what it says it changes."""

import pytest

from scheduler import SchedulerConfig
from scheduler.blocks import hash_trace_ids
from scheduler.request import ChoiceReason


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
    core = script("a", "b", slo_aware=False, rebalancing=on)
    for i in range(10):
        core.arrive(f"r{i}", 2000, blocks=core.prompt("a", blocks=1))
    assert (core.core.snapshot(core.now) is not None) is on
    core.move("r9", "a", "b")
    assert core.core.stats.moves_applied == on
    assert core.core.stats.moves_refused == (not on)


def test_every_technique_is_on_by_default():
    config = SchedulerConfig()
    assert config.policy == "dualmap"
    assert all((config.dual_mapping, config.adaptive_key, config.slo_aware, config.gateway_queue, config.rebalancing))
