"""The objective for the time per output token: what it changes in placing, releasing, taking and moving. A prompt token
is a millisecond."""

from dataclasses import replace

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.core.release import HELD_SHARE
from dualmap.scheduler.events import SettingsChanged

FAST_S, SLOW_S = 0.02, 0.04  # per token of one request alone, and where 4,000 tokens of context more are read

FREE = {"recompute_price_idle": 0.0, "recompute_price_busy": 0.0}  # recomputation is


def taught(script, *instances: str, **config):
    """Has seen enough answers to know that 4,000 tokens of context make a token two hundredths slower."""
    core = script(*instances, **{"taking": False, "decode_s_per_request": 0.0} | config)
    fleet = core.core.books.pace_of(()).tokens
    for _ in range(50):
        fleet.observe(FAST_S, 1500, 100)
        fleet.observe(SLOW_S, 5500, 100)
    return core


def decoding(core, request_id: str, instance_id: str, prompt_tokens: int = 1000, **request):
    core.arrive(request_id, prompt_tokens, blocks=core.prompt(instance_id), only=(instance_id,), **request)
    core.now += prompt_tokens / 1000
    core.first_token(request_id)
    assert core.attempt(request_id).state is AttemptState.DECODING


def test_the_estimate_says_what_one_more_request_does_to_the_tokens(script):
    core = taught(script, "a")
    assert core.view("a").room.tpot_with(1000) == pytest.approx(FAST_S)
    decoding(core, "r0", "a", 3500)
    assert core.view("a").room.tpot_with(1000) == pytest.approx(SLOW_S)


@pytest.mark.parametrize(
    ("objectives", "strictest_s"),
    [((0.0,), 0.0), ((0.1, 0.02), 0.02), ((0.0, 0.1), 0.1), ((None, 0.1), 0.04), ((None,), 0.04)],
)
def test_the_strictest_objective_of_those_that_decode_counts(script, objectives, strictest_s):
    core = taught(script, "a", tpot_slo_s=0.04)
    for n, tpot_slo_s in enumerate(objectives):
        decoding(core, f"r{n}", "a", 10, tpot_slo_s=tpot_slo_s)
    assert core.view("a").booked.strictest_tpot_slo(0.0) == strictest_s
    for n in range(len(objectives)):
        core.finish(f"r{n}")
    assert core.view("a").booked.strictest_tpot_slo(0.0) == 0.0


@pytest.mark.parametrize(("tpot_slo_s", "expected"), [(0.0, "a"), (0.06, "a"), (0.03, "b")])
def test_a_request_goes_where_its_tokens_come_in_time(script, tpot_slo_s, expected):
    core = taught(script, "a", "b")
    decoding(core, "r0", "a", 3500)
    core.arrive("b0", 150, only=("b",))  # b would give the first token later
    core.arrive("r1", 200, blocks=core.prompt("a", "b"), tpot_slo_s=tpot_slo_s)
    assert core.attempt("r1").instance_id == expected


@pytest.mark.parametrize(("own_slo_s", "others_slo_s"), [(0.03, 0.0), (0.0, 0.03), (0.03, 0.06)])
def test_it_waits_a_while_where_tokens_would_come_too_late(script, own_slo_s, others_slo_s):
    core = taught(script, "a")
    decoding(core, "r0", "a", 3500, tpot_slo_s=others_slo_s)
    assert core.arrive("r1", 1000, tpot_slo_s=own_slo_s) == []
    assert core.tick(0.9 * HELD_SHARE * 5.0) == []
    (dispatch,) = core.tick(0.2 * HELD_SHARE * 5.0)
    assert dispatch.request_id == "r1"


def test_it_starts_as_soon_as_tokens_would_come_in_time(script):
    core = taught(script, "a")
    decoding(core, "r0", "a", 3500)
    assert core.arrive("r1", 1000, tpot_slo_s=0.03) == []
    (dispatch,) = core.finish("r0")
    assert dispatch.request_id == "r1"


def test_an_instance_takes_nothing_that_would_slow_its_answers_down_too_much(script):
    core = taught(script, "a", "b", taking=True, slo_aware=False, **FREE)
    decoding(core, "r0", "b", 3500, tpot_slo_s=0.03)
    core.arrive("long", 5000, only=("a",))
    shared = core.prompt("a", blocks=1)
    core.arrive("first", 3000, blocks=shared, only=("a",))
    waits = core.arrive("second", 1000, blocks=shared, only=())
    assert waits == []
    core.tick(0.01)
    assert core.attempt("second").instance_id == "a"
    core.finish("r0")
    assert core.attempt("second").instance_id == "b"


@pytest.mark.parametrize(("others_slo_s", "moved"), [(0.0, 1), (0.06, 1), (0.03, 0)])
def test_a_move_is_refused_where_tokens_would_come_too_late(script, others_slo_s, moved):
    core = taught(script, "a", "b", slo_aware=False, **FREE)
    decoding(core, "r0", "b", 3500, tpot_slo_s=others_slo_s)
    shared = core.prompt("a", blocks=1)
    for n in range(3):
        core.arrive(f"w{n}", 3000, blocks=shared)
    core.move("w2", "a", "b")
    assert core.core.stats.moves_applied == moved


@pytest.mark.parametrize(("took_s", "kept", "missed"), [(1.9, 1, 0), (2.1, 0, 1)])
def test_answers_are_counted_by_their_mean_gap(script, took_s, kept, missed):
    core = script("a")
    decoding(core, "r", "a", 100, tpot_slo_s=0.02)
    core.now += took_s
    core.finish("r", output_tokens=101)
    assert (core.core.stats.tpot_kept, core.core.stats.tpot_missed) == (kept, missed)


@pytest.mark.parametrize(("streams", "tokens", "tpot_slo_s"), [(False, 100, 0.02), (True, 1, 0.02), (True, 100, 0.0)])
def test_what_shows_no_gap_or_has_no_objective_is_not_counted(script, streams, tokens, tpot_slo_s):
    core = script("a")
    core.arrive("r", 100, streams=streams, tpot_slo_s=tpot_slo_s)
    core.now += 5.0
    core.first_token("r")
    core.finish("r", output_tokens=tokens)
    assert (core.core.stats.tpot_kept, core.core.stats.tpot_missed) == (0, 0)


def test_a_new_objective_holds_for_the_next_request(script):
    core = script("a")
    core.arrive("r1", 100)
    core.send(SettingsChanged(replace(core.core.config, tpot_slo_s=0.03)))
    core.arrive("r2", 100)
    assert [core.attempt(r).tpot_slo_s for r in ("r1", "r2")] == [0.0, 0.03]
