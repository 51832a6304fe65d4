"""A move is applied only if it can still be made and still gains. A token is a millisecond."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause, MovesProposed
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.snapshot import Move

PATIENT_S = 1000.0
FREE = {"recompute_price_idle": 0.0, "recompute_price_busy": 0.0}  # recomputation is


def hot_core(script, **config):
    """a runs `now` and has r0 to r4 waiting, 2000 tokens each, where their prefix is; b and c are idle."""
    core = script("a", "b", "c", **{"taking": False, "slo_aware": False} | config)
    core.arrive("now", 2000, blocks=core.prompt("a", "b"), ttft_slo_s=PATIENT_S)
    for i in range(5):
        core.now += 0.001
        core.arrive(f"r{i}", 3024, blocks=core.prompt("a", "b"), ttft_slo_s=PATIENT_S)
        assert core.attempt(f"r{i}").state is AttemptState.WAITING
        assert core.attempt(f"r{i}").uncached_tokens == 2000
    return core


def test_a_move_takes_the_request_to_the_other_instance(script):
    core = hot_core(script, **FREE)
    core.now += 1.0
    (dispatch,) = core.move("r4", "a", "b")
    assert (dispatch.queued_s, dispatch.estimated_ttft_s) == pytest.approx((1.0, 1.0 + 3.024))
    assert dispatch == Dispatch(
        "r4",
        1,
        "b",
        reason=ChoiceReason.MOVED,
        queued_s=dispatch.queued_s,
        estimated_ttft_s=dispatch.estimated_ttft_s,
        cached_tokens=0,
    )
    assert (core.attempt("r4").moves, core.attempt("r4").number) == (1, 1)
    assert core.books("a")[:4] == (4, 1, 8000, 2000)
    assert core.books("b")[:4] == (0, 1, 0, 3024)
    assert (core.core.stats.moves_applied, core.core.stats.moves_refused) == (1, 0)


def test_a_moved_request_waits_its_turn_at_the_other_instance(script):
    core = hot_core(script, **FREE)
    core.arrive("there", 1500, blocks=core.prompt("b", "a"))
    assert core.move("r4", "a", "b") == []
    attempt = core.attempt("r4")
    assert (attempt.state, attempt.instance_id, attempt.uncached_tokens) == (AttemptState.WAITING, "b", 3024)
    assert core.view("b").cache.cached_blocks(attempt.request.blocks) == 2
    released = core.first_token("there")
    assert [c.request_id for c in released] == ["r4"]


def test_when_the_head_of_the_queue_moves_the_next_may_start(script):
    core = script(
        "a", "b", capacity={"kv_tokens": 3000}, release_window_s=10.0, deadline_order=False, slo_aware=False, **FREE
    )
    for request_id, tokens in (("now", 1200), ("large", 2600), ("small", 100)):
        core.now += 0.001
        core.arrive(request_id, tokens, blocks=core.prompt("a", blocks=1), max_output_tokens=1, ttft_slo_s=PATIENT_S)
    assert [a.request.id for a in core.view("a").waiting] == ["large", "small"]
    commands = core.move("large", "a", "b")
    assert [(c.request_id, c.instance_id) for c in commands] == [("large", "b"), ("small", "a")]


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (("nobody", "a", "b"), "the request is unknown"),
        (("now", "a", "b"), "its prefill has started"),
        (("r4", "b", "c"), "it waits elsewhere"),
        (("r4", "a", "a"), "it is there already"),
        (("r4", "a", "nowhere"), "the target is unknown"),
    ],
)
def test_a_move_that_cannot_be_made_is_refused(script, move, why: str):
    core = hot_core(script, **FREE)
    books = [core.books(i) for i in "abc"]
    assert core.move(*move) == []
    assert (core.core.stats.moves_applied, core.core.stats.moves_refused) == (0, 1), why
    assert [core.books(i) for i in "abc"] == books


def draining(core):
    core.drain("b")


def suspect(core):
    core.arrive("probe", 10, blocks=core.prompt("b"))
    core.fail("probe", 1, FailureCause.CONNECT)
    core.cancel("probe")


def filled(core):
    core.arrive("there-0", 1500, blocks=core.prompt("b"), ttft_slo_s=PATIENT_S)
    for i in range(1, 6):
        core.arrive(f"there-{i}", 1025, blocks=core.prompt("b"), ttft_slo_s=PATIENT_S)


def as_loaded(core):
    core.arrive("there", 20_000, blocks=core.prompt("b"))


def moved_twice(core):
    core.attempt("r4").moves = 2


def failed_there(core):
    core.attempt("r4").tried = frozenset({"b"})


@pytest.mark.parametrize("change", [draining, suspect, filled, as_loaded, moved_twice, failed_there])
def test_a_move_that_was_good_when_planned_is_refused_when_things_have_changed(script, change):
    core = hot_core(script, **FREE, max_waiting=5)
    change(core)
    assert core.move("r4", "a", "b") == []
    assert (core.core.stats.moves_applied, core.core.stats.moves_refused) == (0, 1)
    assert core.attempt("r4").instance_id == "a"


def test_a_request_that_started_since_the_plan_stays(script):
    core = hot_core(script, **FREE)
    core.first_token("now")
    assert core.attempt("r0").state is AttemptState.PREFILLING
    assert core.move("r0", "a", "b") == []
    assert core.core.stats.moves_refused == 1


def test_a_plan_for_another_membership_is_refused_as_a_whole(script):
    core = hot_core(script, **FREE)
    version = core.core.version
    core.join("d")
    moves = (Move("r4", "a", "b", gain_s=5.0), Move("r3", "a", "c", gain_s=5.0))
    assert core.send(MovesProposed(moves, version)) == []
    assert core.core.stats.moves_refused == 2


@pytest.mark.parametrize(("price", "applied"), [(0.0, True), (6.9, True), (7.1, False)])
def test_the_gain_is_checked_again_with_the_price_of_recomputation(script, price: float, applied: bool):
    # r4 would have its first token in 12 s here and in 3.024 s there, of which 1.024 s compute what a has cached.
    gain_is_zero_at = (12.0 - 3.024) / 1.024
    core = hot_core(
        script, recompute_price_idle=price, recompute_price_busy=price, min_move_gain_s=(gain_is_zero_at - 7.0) * 1.024
    )
    core.move("r4", "a", "b")
    assert core.core.stats.moves_applied == applied


def test_the_moves_of_one_plan_are_checked_one_after_the_other(script):
    core = hot_core(script, **FREE)
    moves = tuple(Move(f"r{i}", "a", "b", gain_s=1.0) for i in (4, 3, 2, 1, 0))
    core.send(MovesProposed(moves, core.core.version))
    assert core.core.stats.moves_applied + core.core.stats.moves_refused == 5
    assert core.core.stats.moves_refused >= 1, "once b has its share, a is the better place"
    assert core.view("b").backlog_s < core.view("a").backlog_s + 5.0
