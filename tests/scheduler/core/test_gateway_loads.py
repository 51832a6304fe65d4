"""What other gateways have booked counts wherever one's own does. A token is a millisecond."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.events import GatewayLoads, InstanceLoad
from dualmap.scheduler.instance.others import FRESH_S, KEPT_S, MAX_YIELD_S
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.request import ChoiceReason

PATIENT_S = 1000.0


def hear(core, *loads: InstanceLoad, sent=()):
    return core.send(GatewayLoads(loads, tuple(sent)))


def test_the_load_of_others_is_ahead_of_a_request(script):
    core = script("a")
    hear(core, InstanceLoad("a", 1, 2000, waiting_tokens=1000, kv_tokens=0))
    core.arrive("r", 500)
    assert core.attempt("r").estimated_ttft_s == pytest.approx(3.5)
    assert core.view("a").backlog_s == pytest.approx(3.5)


def test_a_request_goes_where_others_have_sent_less(script):
    core = script("a", "b")
    hear(core, InstanceLoad("a", 1, 2000, waiting_tokens=0, kv_tokens=0))
    core.arrive("r", 500, blocks=core.prompt("a", "b"))
    assert core.attempt("r").instance_id == "b"


def test_nothing_is_sent_to_an_instance_that_others_keep_busy(script):
    core = script("a")
    hear(core, InstanceLoad("a", 3, 9000, waiting_tokens=0, kv_tokens=0))
    core.arrive("r", 10)
    assert core.attempt("r").state is AttemptState.WAITING
    (released,) = hear(core)
    assert released.request_id == "r"


def waiting_elsewhere(head_age_s: float | None) -> InstanceLoad:
    return InstanceLoad("a", 1, 0, waiting_tokens=500, kv_tokens=0, waiting=1, head_age_s=head_age_s)


@pytest.mark.parametrize(
    ("head_age_s", "goes"),
    [(None, True), (-5.0, True), (0.9, False), (30.0, False)],
)
def test_room_belongs_to_the_gateway_whose_request_came_first(script, head_age_s, goes):
    core = script("a", length_handicap=0.0)
    hear(core, InstanceLoad("a", 1, 9000, waiting_tokens=0, kv_tokens=0))
    core.arrive("r", 10, ttft_slo_s=PATIENT_S)
    core.now += 0.5
    released = hear(core, waiting_elsewhere(head_age_s))
    assert bool(released) is goes


def test_room_that_another_gateway_does_not_use_is_taken_after_a_while(script):
    core = script("a")
    hear(core, waiting_elsewhere(30.0))
    core.arrive("r", 10, ttft_slo_s=PATIENT_S)
    core.now += 0.1
    assert not hear(core, waiting_elsewhere(30.0))
    core.now += MAX_YIELD_S - 0.001
    assert not hear(core, waiting_elsewhere(30.0))
    core.now += 0.002
    assert [c.request_id for c in hear(core, waiting_elsewhere(30.0))] == ["r"]


def test_what_others_had_counts_less_the_longer_nothing_is_heard_of_them(script):
    core = script("a")
    hear(core, InstanceLoad("a", 1, 2000, waiting_tokens=0, kv_tokens=0))
    core.now += FRESH_S
    core.tick()
    assert core.view("a").backlog_tokens == 2000
    core.now += 0.5
    core.tick()
    assert core.view("a").backlog_tokens == pytest.approx(1500, abs=1)
    core.now += KEPT_S
    core.tick()
    assert core.view("a").others.load is None
    assert core.core.loads.rivals is None


def test_news_that_is_old_already_counts_as_old(script):
    core = script("a")
    core.send(GatewayLoads((InstanceLoad("a", 1, 2000, waiting_tokens=0, kv_tokens=0),), age_s=FRESH_S + 0.5))
    core.tick()
    assert core.view("a").backlog_tokens == pytest.approx(1500, abs=1)


@pytest.mark.parametrize(("others", "starts"), [(1, True), (2, False)])
def test_no_more_run_at_once_than_the_instance_runs_for_all_gateways_together(script, others: int, starts: bool):
    core = script("a", capacity={"max_running": 3})
    hear(core, InstanceLoad("a", others, 0, waiting_tokens=0, kv_tokens=0))
    core.arrive("r0", 10)
    assert bool(core.arrive("r1", 10)) is starts


@pytest.mark.parametrize(("others_kv", "starts"), [(800, True), (801, False)])
def test_the_kv_cache_is_shared_with_what_others_run(script, others_kv: int, starts: bool):
    core = script("a", capacity={"kv_tokens": 2000})
    hear(core, InstanceLoad("a", 1, 0, waiting_tokens=0, kv_tokens=others_kv))
    core.arrive("r0", 500, max_output_tokens=100)
    core.first_token("r0")
    assert bool(core.arrive("r1", 500, max_output_tokens=100)) is starts


def test_each_report_replaces_the_one_before_and_what_is_not_reported_is_gone(script):
    core = script("a", "b")
    hear(
        core,
        InstanceLoad("a", 1, 2000, waiting_tokens=0, kv_tokens=0),
        InstanceLoad("b", 1, 1000, waiting_tokens=0, kv_tokens=0),
        InstanceLoad("nobody", 1, 1, waiting_tokens=1, kv_tokens=1),
    )
    assert (core.view("a").backlog_tokens, core.view("b").backlog_tokens) == (2000, 1000)
    hear(core, InstanceLoad("a", 1, 500, waiting_tokens=70, kv_tokens=0))
    assert (core.view("a").backlog_tokens, core.view("b").backlog_tokens) == (570, 0)
    assert [v.instance_id for v in core.core.loads.hottest()] == ["a", "b"]
    hear(core)
    assert core.view("a").others.load is None
    assert core.core.loads.mean_s == 0.0


def test_another_incarnation_has_none_of_the_load_of_the_one_before(script):
    core = script("a")
    hear(core, InstanceLoad("a", 1, 2000, waiting_tokens=0, kv_tokens=0))
    core.join("a", incarnation=2)
    assert core.view("a").backlog_tokens == 0


def test_the_books_hold_only_what_is_ours(script, empty_books):
    core = script("a", "b")
    hear(core, InstanceLoad("a", 2, 2000, waiting_tokens=1000, kv_tokens=5000))
    assert core.books("a") == empty_books
    core.arrive("r", 500, blocks=core.prompt("b"))
    pace = core.view("a").seconds_per_token
    assert core.core.own_loads(core.now) == (
        InstanceLoad("a", 0, 0, waiting_tokens=0, kv_tokens=0, waiting=0, seconds_per_token=pace),
        InstanceLoad("b", 1, 500, waiting_tokens=0, kv_tokens=756, waiting=0, seconds_per_token=pace),
    )
    core.arrive("waits", 5000, blocks=core.prompt("b"), ttft_slo_s=PATIENT_S)
    assert core.attempt("waits").state is AttemptState.WAITING
    work_tokens = core.attempt("waits").work_tokens
    core.now += 20.0
    load = core.core.own_loads(core.now)[1]
    assert load.head_age_s == pytest.approx(20.0 - 2 * work_tokens * pace)
    assert load == InstanceLoad(
        "b",
        1,
        500,
        waiting_tokens=work_tokens,
        kv_tokens=756,
        waiting=1,
        seconds_per_token=pace,
        saved_tokens=0,
        head_age_s=load.head_age_s,
    )


def test_asking_for_the_books_puts_nobody_aside(script):
    core = script("a", length_handicap=0.0)
    core.arrive("runs", 3000)
    core.arrive("long", 4000, ttft_slo_s=6.0)
    core.arrive("short", 1000, ttft_slo_s=6.0)
    waiting = [attempt.request.id for attempt in core.view("a").waiting]
    assert core.core.own_loads(core.now)[0].waiting == 2
    assert [attempt.request.id for attempt in core.view("a").waiting] == waiting == ["long", "short"]


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
    hear(core, InstanceLoad("a", 1, 4000, waiting_tokens=0, kv_tokens=0))
    snapshot = core.core.snapshot(core.now)
    assert [w.ahead_tokens for w in snapshot.waiting] == [6000]
    (move,) = plan_rebalance(snapshot, core.core.config)
    # Here 6 s and 0.976 s of its own, there 2 s.
    assert move.gain_s == pytest.approx(6.976 - 2.0)
    core.move("r", "a", "b")
    assert core.core.stats.moves_applied == 1


def test_gateways_do_not_all_find_the_same_least_loaded_instance(script):
    """c has a little less to do than d."""
    core = script(*"abcd", rebalancing=False, taking=False)
    hear(
        core,
        InstanceLoad("a", 1, 20_000, waiting_tokens=0, kv_tokens=0),
        InstanceLoad("b", 1, 20_000, waiting_tokens=0, kv_tokens=0),
        InstanceLoad("d", 1, 1, waiting_tokens=0, kv_tokens=0),
    )
    drawn = set()
    for i in range(20):
        core.arrive(f"r{i}", 10, core.prompt("a", "b", blocks=1, other_than=i))
        drawn.add(core.attempt(f"r{i}").instance_id)
        core.cancel(f"r{i}")
    assert drawn == {"c", "d"}


def test_a_gateway_alone_finds_the_least_loaded_instance(script):
    core = script(*"abcd", rebalancing=False, taking=False)
    core.arrive("busy-a", 20_000, core.prompt("a", "b", blocks=1, other_than=1))
    core.arrive("busy-b", 20_000, core.prompt("b", "a", blocks=1))
    core.arrive("alone", 1000, core.prompt("a", "b", blocks=1, other_than=2))
    assert core.attempt("alone").instance_id in "cd"
