"""What other gateways have booked counts wherever one's own does. A token is a millisecond."""

import pytest

from scheduler.events import GatewayLoads, InstanceLoad
from scheduler.rebalance import plan_rebalance
from scheduler.request import AttemptState, ChoiceReason

PATIENT_S = 1000.0


def hear(core, *loads: InstanceLoad, sent=()):
    return core.send(GatewayLoads(loads, tuple(sent)))


def test_the_load_of_others_is_ahead_of_a_request(script):
    core = script("a")
    hear(core, InstanceLoad("a", 1, 2000, 1000, 0))
    core.arrive("r", 500)
    assert core.attempt("r").estimated_ttft_s == pytest.approx(3.5)
    assert core.view("a").backlog_s == pytest.approx(3.5)


def test_a_request_goes_where_others_have_sent_less(script):
    core = script("a", "b")
    hear(core, InstanceLoad("a", 1, 2000, 0, 0))
    core.arrive("r", 500, blocks=core.prompt("a", "b"))
    assert core.attempt("r").instance_id == "b"


@pytest.mark.parametrize("own", [0, 1])
def test_one_prompt_of_ours_may_be_there_whatever_others_have_sent(script, own: int):
    core = script("a")
    hear(core, InstanceLoad("a", 3, 9000, 9000, 0))
    for i in range(own):
        core.arrive(f"own-{i}", 10)
    core.arrive("r", 10)
    assert core.attempt("r").state is (AttemptState.WAITING if own else AttemptState.PREFILLING)
    released = hear(core)
    assert [c.request_id for c in released] == (["r"] if own else [])


@pytest.mark.parametrize(("others", "starts"), [(1, True), (2, False)])
def test_no_more_run_at_once_than_the_instance_runs_for_all_gateways_together(script, others: int, starts: bool):
    core = script("a", capacity={"max_running": 3})
    hear(core, InstanceLoad("a", others, 0, 0, 0))
    core.arrive("r0", 10)
    assert bool(core.arrive("r1", 10)) is starts


@pytest.mark.parametrize(("others_kv", "starts"), [(800, True), (801, False)])
def test_the_kv_cache_is_shared_with_what_others_run(script, others_kv: int, starts: bool):
    core = script("a", capacity={"kv_tokens": 2000})
    hear(core, InstanceLoad("a", 1, 0, 0, others_kv))
    core.arrive("r0", 500, max_output_tokens=100)
    core.first_token("r0")
    assert bool(core.arrive("r1", 500, max_output_tokens=100)) is starts


def test_each_report_replaces_the_one_before_and_what_is_not_reported_is_gone(script):
    core = script("a", "b")
    hear(core, InstanceLoad("a", 1, 2000, 0, 0), InstanceLoad("b", 1, 1000, 0, 0), InstanceLoad("nobody", 1, 1, 1, 1))
    assert (core.view("a").backlog_tokens, core.view("b").backlog_tokens) == (2000, 1000)
    hear(core, InstanceLoad("a", 1, 500, 70, 0))
    assert (core.view("a").backlog_tokens, core.view("b").backlog_tokens) == (570, 0)
    assert [v.instance_id for v in core.core.loads.hottest()] == ["a", "b"]
    hear(core)
    assert core.view("a").others is None
    assert core.core.loads.mean_s == 0.0


def test_another_incarnation_has_none_of_the_load_of_the_one_before(script):
    core = script("a")
    hear(core, InstanceLoad("a", 1, 2000, 0, 0))
    core.join("a", incarnation=2)
    assert core.view("a").backlog_tokens == 0


def test_the_books_hold_only_what_is_ours(script, empty_books):
    core = script("a", "b")
    hear(core, InstanceLoad("a", 2, 2000, 1000, 5000))
    assert core.books("a") == empty_books
    core.arrive("r", 500, blocks=core.prompt("b"))
    assert core.core.own_loads() == (InstanceLoad("a", 0, 0, 0, 0), InstanceLoad("b", 1, 500, 0, 756))
    core.arrive("waits", 5000, blocks=core.prompt("b"), ttft_slo_s=PATIENT_S)
    assert core.attempt("waits").state is AttemptState.WAITING
    assert core.core.own_loads()[1] == InstanceLoad("b", 1, 500, core.attempt("waits").work_tokens, 756)


def test_prompts_that_others_have_sent_are_cached_where_they_sent_them(script):
    core = script("a", "b")
    blocks = core.prompt("a", "b", blocks=4)
    hear(core, sent=[("b", blocks), ("nobody", blocks)])
    (dispatch,) = core.arrive("r", 3000, blocks=blocks)
    assert (dispatch.instance_id, dispatch.reason, dispatch.cached_tokens) == ("b", ChoiceReason.WARM, 2048)


def test_moves_and_plans_count_what_others_have_put_ahead(script):
    core = script("a", "b", slo_aware=False, taking=False, recompute_price_idle=0.0, recompute_price_busy=0.0)
    shared = core.prompt("a", "b")
    core.arrive("now", 2000, blocks=shared)
    core.arrive("r", 2000, blocks=shared)
    assert core.core.snapshot(core.now) is None
    hear(core, InstanceLoad("a", 1, 4000, 0, 0))
    snapshot = core.core.snapshot(core.now)
    assert [w.ahead_tokens for w in snapshot.waiting] == [6000]
    (move,) = plan_rebalance(snapshot, core.core.config)
    # Here 6 s and 0.976 s of its own, there 2 s.
    assert move.gain_s == pytest.approx(6.976 - 2.0)
    core.move("r", "a", "b")
    assert core.core.stats.moves_applied == 1


def test_the_least_loaded_instance_draws_nobody_while_other_gateways_would_all_find_the_same_one(script):
    core = script(*"abcd", rebalancing=False, taking=False)
    blocks = core.prompt("a", "b", blocks=1)
    core.arrive("busy-a", 20_000, core.prompt("a", "b", blocks=1, other_than=1))
    core.arrive("busy-b", 20_000, core.prompt("b", "a", blocks=1))
    core.send(GatewayLoads((InstanceLoad("c", 0, 0, 0, 0),)))
    core.arrive("shared", 1000, blocks)
    assert core.attempt("shared").instance_id in "ab"
    core.send(GatewayLoads(()))
    core.arrive("alone", 1000, core.prompt("a", "b", blocks=1, other_than=2))
    assert core.attempt("alone").instance_id in "cd"
