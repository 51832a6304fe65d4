"""First tokens, seen and assumed. By hand-made events; a token is a millisecond of prefill."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.events import ServedElsewhere
from tests.scheduler.core.seen import ids


def test_a_first_token_frees_the_prefill_and_keeps_the_kv_cache(script, empty_books):
    core = script("a")
    core.arrive("r", 1000, max_output_tokens=100)
    assert core.books("a") == (0, 1, 0, 1000, 1100)
    core.first_token("r")
    assert core.books("a") == (0, 1, 0, 0, 1100)
    core.finish("r")
    assert core.books("a") == empty_books


def test_an_answer_that_is_not_streamed_is_taken_to_be_prefilled_when_estimated(script):
    core = script("a")
    core.arrive("r0", 2000, streams=False)
    core.arrive("r1", 2000)
    assert core.tick(1.9) == []
    assert core.attempt("r0").state is AttemptState.PREFILLING
    assert ids(core.tick(0.1)) == ["r1"]
    assert core.attempt("r0").state is AttemptState.UNSEEN
    core.first_token("r0")
    assert core.attempt("r0").started
    assert core.core.stats.late_events == 0


def test_an_assumed_first_token_waits_for_the_prefills_ahead_of_it(script):
    core = script("a", release_window_s=10.0)
    core.arrive("r0", 1000)
    core.arrive("r1", 1000, streams=False)
    core.tick(1.9)
    assert core.attempt("r1").state is AttemptState.PREFILLING
    core.tick(0.1)
    assert core.attempt("r1").state is AttemptState.UNSEEN


def test_an_answer_that_ended_before_its_assumed_first_token_leaves_nothing_behind(script, empty_books):
    core = script("a")
    core.arrive("r", 1000, streams=False)
    core.finish("r")
    core.arrive("r", 5000, streams=True)
    core.tick(1.0)
    core.cancel("r")
    assert core.tick(100.0) == []
    assert core.books("a") == empty_books
    assert not core.core.books.assumed


def test_the_estimate_learns_from_first_tokens(script):
    core = script("a")
    for i in range(300):
        core.arrive(f"r{i}", 4000)
        core.now += 8.0
        core.first_token(f"r{i}")
        core.finish(f"r{i}")
    assert core.view("a").seconds_per_token == pytest.approx(0.002, rel=0.03)
    core.arrive("r", 3000)
    assert core.attempt("r").estimated_ttft_s == pytest.approx(6.0, rel=0.03)


@pytest.mark.parametrize("seen_after_s", [0.1, 60.0])
def test_the_end_of_an_answer_that_is_not_streamed_teaches_nothing(script, seen_after_s: float):
    core = script("a")
    core.arrive("r", 4000, streams=False)
    core.now += seen_after_s
    core.first_token("r")
    assert core.view("a").seconds_per_token == pytest.approx(0.001)


def test_assumed_first_tokens_teach_nothing(script):
    core = script("a")
    for i in range(50):
        core.arrive(f"r{i}", 4000, streams=False)
        core.tick(10.0)
        core.first_token(f"r{i}")
        core.finish(f"r{i}")
    assert core.view("a").seconds_per_token == pytest.approx(0.001)


def test_a_request_that_is_served_elsewhere_than_told_has_no_time_out_any_more(script):
    """Its proxy has the head of the answer."""
    core = script("a", "b")
    core.arrive("r", 1000, streams=False, timeout_s=2.0)
    there = core.attempt("r").instance_id
    core.tick(3.0)
    core.send(ServedElsewhere("r", 1, "b" if there == "a" else "a"))
    core.core.check()
    assert core.tick(60.0) == []
    assert core.finish("r", 2) == []
