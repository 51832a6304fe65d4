"""An instance without work takes a request that waits for another, where that pays. A token is a millisecond."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause, GatewayLoads, InstanceLoad
from dualmap.scheduler.prefix_key import MIN_CROWD
from dualmap.scheduler.request import ChoiceReason

PATIENT_S = 1000.0
FREE = {"recompute_price_idle": 0.0, "recompute_price_busy": 0.0}  # recomputation is


def loaded(script, *waiting: tuple[str, int], now: int = 5000, **config):
    """a computes `now`; the requests of `waiting` wait there, 1024 tokens of each cached. b runs `other`."""
    core = script("a", "b", **{"slo_aware": False, "adaptive_key": False} | config)
    shared = core.prompt("a", "b")
    core.arrive("now", now, blocks=shared, ttft_slo_s=PATIENT_S)
    for request_id, tokens in waiting:
        core.now += 0.001
        core.arrive(request_id, tokens, blocks=shared, ttft_slo_s=PATIENT_S)
        assert core.attempt(request_id).state is AttemptState.WAITING
        assert core.attempt(request_id).instance_id == "a"
    core.arrive("other", 10, blocks=core.prompt("b", "a"))
    assert core.attempt("other").instance_id == "b"
    return core


def test_an_instance_that_runs_out_of_work_takes_what_waits_elsewhere(script):
    core = loaded(script, ("r", 3024), **FREE)
    core.now += 0.5
    (dispatch,) = core.finish("other")
    assert (dispatch.queued_s, dispatch.estimated_ttft_s) == pytest.approx((0.5, 0.5 + 3.024))
    assert dispatch == Dispatch(
        "r",
        1,
        "b",
        reason=ChoiceReason.TAKEN,
        queued_s=dispatch.queued_s,
        estimated_ttft_s=dispatch.estimated_ttft_s,
        cached_tokens=0,
    )
    assert core.core.stats.requests_taken == 1
    assert core.books("a") == (0, 1, 0, 5000, 5000 + 256)
    assert core.books("b") == (0, 1, 0, 3024, 3024 + 256)
    assert core.view("b").cache.held_blocks(core.attempt("r").request.blocks) == 2
    assert core.view("a").cache._expected == {}
    core.now += 3.0
    core.first_token("r")
    core.finish("r")
    core.finish("now")
    assert core.books("a") == core.books("b") == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("price", "taken"), [(0.0, True), (3.7, True), (3.9, False)])
def test_takes_only_where_the_time_saved_pays_for_what_is_computed_again(script, price: float, taken: bool):
    # Here it would have its first token in 5 + 2 s, there in 3.024 s, of which 1.024 s compute what a has cached.
    core = loaded(script, ("r", 3024), recompute_price_idle=price, recompute_price_busy=price, min_move_gain_s=0.0)
    assert bool(core.finish("other")) is taken
    assert core.attempt("r").instance_id == ("b" if taken else "a")
    assert core.core.stats.requests_taken == taken


@pytest.mark.parametrize(("least_s", "taken"), [(3.9, True), (4.0, False)])
def test_a_gain_below_the_least_worth_having_is_left_alone(script, least_s: float, taken: bool):
    core = loaded(script, ("r", 3024), min_move_gain_s=least_s, **FREE)
    assert bool(core.finish("other")) is taken


def test_takes_the_one_that_gains_most(script):
    core = loaded(script, ("first", 2024), ("second", 1124), ("third", 5024), **FREE)
    # Of these, `first` has 5 s ahead, `second` 6 s and `third` 6.1 s; there they take 1, 1 and 1 s longer.
    (dispatch,) = core.finish("other")
    assert dispatch.request_id == "third"
    assert core.view("a").waiting_count == 2


def test_takes_as_many_as_it_can_start(script):
    core = loaded(script, *((f"r{i}", 1044) for i in range(8)), capacity={"max_running": 4}, **FREE)
    core.view("b").cache.use(core.prompt("a", "b"))
    assert len(core.finish("other")) == 4  # 20 tokens each: all begin within the window
    assert core.view("b").running_count == 4
    assert core.view("a").waiting_count == 4


def test_never_takes_what_it_has_failed(script):
    core = loaded(script, ("r", 3024), **FREE)
    core.attempt("r").tried = frozenset({"b"})
    assert core.finish("other") == []


def test_a_draining_instance_takes_nothing(script):
    core = loaded(script, ("r", 3024), **FREE)
    core.drain("b")
    assert core.finish("other") == []
    assert core.attempt("r").instance_id == "a"


def test_an_instance_that_refuses_connections_takes_nothing(script):
    core = loaded(script, ("r", 3024), max_attempts=1, **FREE)
    core.fail("other", 1, FailureCause.CONNECT)
    assert core.attempt("r").instance_id == "a"
    assert core.core.stats.requests_taken == 0


def test_nothing_is_taken_from_an_instance_that_could_start_it_as_soon(script):
    core = loaded(script, now=150, release_window_s=0.1, **FREE)
    core.arrive("r", 1100, blocks=core.prompt("a", "b"), ttft_slo_s=PATIENT_S)
    assert core.attempt("r").state is AttemptState.WAITING
    assert core.finish("other") == []


def test_what_does_not_fit_into_the_kv_cache_is_not_taken(script):
    core = loaded(script, ("r", 3024), capacity={"kv_tokens": 6000}, **FREE)
    core.arrive("large", 3000, blocks=core.prompt("b", "a", other_than=1))
    assert core.view("b").running_count == 2
    core.first_token("large")
    assert core.finish("other") == []  # 3256 are booked, 3280 more are needed
    assert core.attempt("r").instance_id == "a"
    assert [c.request_id for c in core.finish("large")] == ["r"]


def test_when_the_head_of_a_queue_is_taken_the_next_may_start(script):
    """`large` finds no room at a, which is slow; `small` waits behind it and has its prefix there."""
    config = {"slo_aware": False, "deadline_order": False, "recompute_price_idle": 4.0, "recompute_price_busy": 4.0}
    core = script("b", capacity={"kv_tokens": 6000}, **config)
    core.join("a", prefill_tokens_per_s=500.0)
    shared = core.prompt("a", "b", blocks=4)
    core.arrive("other", 20_000, blocks=core.prompt("b", "a"))
    core.arrive("now", 2058, blocks=shared)
    core.first_token("now")
    core.arrive("large", 5500, blocks=core.prompt("a", "b", other_than=1))
    core.arrive("small", 2068, blocks=shared)
    assert [a.request.id for a in core.view("a").waiting] == ["large", "small"]
    commands = core.finish("other")
    assert [(c.request_id, c.instance_id) for c in commands] == [("large", "b"), ("small", "a")]


def test_what_leaves_a_suspect_is_placed_once(script):
    """All that wait could start at b at once: whoever is placed there first must not draw the others there, too."""
    core = loaded(script, *((f"r{i}", 1034) for i in range(3)), max_attempts=1, **FREE)
    core.view("b").cache.use(core.prompt("a", "b"))
    commands = [c for c in core.fail("now", 1, FailureCause.CONNECT) if isinstance(c, Dispatch)]
    assert sorted((c.request_id, c.instance_id) for c in commands) == [("r0", "b"), ("r1", "b"), ("r2", "b")]
    assert core.books("a") == (0, 0, 0, 0, 0)


def test_load_that_other_gateways_put_on_an_instance_is_a_reason_to_take_from_it(script):
    core = loaded(script, ("r", 1500), now=500, min_move_gain_s=1.0, **FREE)
    assert core.finish("other") == []  # 0.5 s ahead of it
    core.send(GatewayLoads((InstanceLoad("a", 1, 4000, waiting_tokens=0, kv_tokens=0),)))
    assert core.attempt("r").reason is ChoiceReason.TAKEN
    assert core.attempt("r").instance_id == "b"


@pytest.mark.parametrize("on", [True, False])
def test_taking_can_be_switched_off(script, on: bool):
    core = loaded(script, ("r", 3024), taking=on, **FREE)
    assert bool(core.finish("other")) is on


@pytest.mark.parametrize(("decode_s_per_request", "taken"), [(0.0, 1), (0.0006, 1), (0.006, 0)])
def test_an_instance_where_many_decode_does_not_take_what_gains_less_than_that_costs(
    script, decode_s_per_request, taken
):
    core = script("a", "b", slo_aware=False, adaptive_key=False, decode_s_per_request=decode_s_per_request, **FREE)
    for i in range(7):  # at 256 tokens an answer each of them costs 0.15 s, or 1.5 s
        core.arrive(f"decodes{i}", 10, only=("b",))
        core.now += 0.01
        core.first_token(f"decodes{i}")
    assert core.view("b").running_count == 7
    core.arrive("now", 5000, only=("a",))
    core.arrive("r", 3000, blocks=core.prompt("a", blocks=1))
    core.now += 0.5
    core.finish("decodes0")
    assert core.core.stats.requests_taken == taken


def test_who_waits_leaves_for_a_copy_once_the_prefix_is_known_to_be_hot(script):
    core = script("a", "b", recompute_price_idle=8.0, recompute_price_busy=8.0)
    shared = core.prompt("a", "b")
    core.arrive("first", 3000, blocks=(*shared, 1001))
    core.arrive("other", 10, blocks=core.prompt("b", "a"))
    waiting = [f"w{n}" for n in range(MIN_CROWD)]
    for n, request_id in enumerate(waiting[:-1]):
        core.now += 0.001
        core.arrive(request_id, 3000, blocks=(*shared, 2001 + n))
        assert core.attempt(request_id).shared_blocks == 0
        assert core.attempt(request_id).instance_id == "a"
    core.arrive(waiting[-1], 3000, blocks=(*shared, 3001))  # one more than a crowd has
    assert {core.attempt(request_id).shared_blocks for request_id in waiting} == {len(shared)}
    core.now += 0.5
    (dispatch,) = core.finish("other")
    assert (dispatch.request_id in waiting, dispatch.instance_id) == (True, "b")
