"""Failures, who is tried next, and who is left alone. By hand-made events; a token is a millisecond of prefill."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import FailStream, RejectReason
from dualmap.scheduler.events import FailureCause
from tests.scheduler.core.seen import dispatched, ids

BEFORE_THE_FIRST_TOKEN = [FailureCause.CONNECT, FailureCause.REFUSED, FailureCause.BROKEN, FailureCause.INSTANCE_LOST]


@pytest.mark.parametrize("cause", BEFORE_THE_FIRST_TOKEN)
def test_before_the_first_token_a_failed_request_goes_to_its_other_candidate(script, cause, empty_books):
    core = script("a", "b", "c")
    core.arrive("r", 1000, blocks=core.prompt("a", "b"))
    assert dispatched(core.fail("r", 1, cause)) == [("r", 2, "b")]
    assert core.books("a") == empty_books
    assert core.core.stats.retries == 1


@pytest.mark.parametrize("cause", BEFORE_THE_FIRST_TOKEN)
def test_no_instance_fails_the_same_request_twice_while_others_are_left(script, cause):
    core = script(*"abcde", max_attempts=5)
    (first,) = core.arrive("r", 1000, blocks=core.prompt("c"))
    used = [first.instance_id]
    for number in range(1, 5):
        used += [c.instance_id for c in core.fail("r", number, cause)]
    assert sorted(used) == list("abcde")


def test_an_untried_instance_is_preferred_even_if_it_refused_a_connection_lately(script):
    core = script("a", "b", release_window_s=10.0)
    core.arrive("other", 1000, blocks=core.prompt("b"))
    core.fail("other", 1, FailureCause.CONNECT)
    for i in range(8):  # keys of either order of candidates
        (first,) = core.arrive(f"r{i}", 10, blocks=core.prompt("ab"[i % 2]))
        assert first.instance_id == "a"
        assert dispatched(core.fail(f"r{i}", 1, FailureCause.BROKEN)) == [(f"r{i}", 2, "b")]


def test_the_only_instance_left_is_tried_again(script):
    core = script("a")
    core.arrive("r")
    assert dispatched(core.fail("r")) == [("r", 2, "a")]


def test_after_as_many_attempts_as_allowed_the_request_is_rejected(script, empty_books):
    core = script("a", "b", max_attempts=2)
    core.arrive("r", blocks=core.prompt("a"))
    core.fail("r", 1)
    (rejected,) = core.fail("r", 2)
    assert (rejected.request_id, rejected.reason) == ("r", RejectReason.ATTEMPTS_EXHAUSTED)
    assert not core.core.attempts
    assert core.books("a") == core.books("b") == empty_books


NEVER_RAN = [FailureCause.CONNECT, FailureCause.REFUSED]


@pytest.mark.parametrize("cause", NEVER_RAN)
def test_a_prompt_that_an_instance_never_ran_is_not_cached_there(script, cause):
    core = script("a", "b", suspect_s=0.0)
    blocks = core.prompt("a", "b")
    core.arrive("r", 1000, blocks=blocks)
    core.fail("r", 1, cause)
    assert not core.core.instances["a"].cache.held_blocks(blocks)
    assert core.core.instances["b"].cache.held_blocks(blocks) == len(blocks)


@pytest.mark.parametrize("cause", NEVER_RAN)
def test_what_was_cached_before_or_comes_by_others_stays_believed(script, cause):
    core = script("a", release_window_s=100.0, max_attempts=1)
    first, second = (7, 8), (7, 8, 9)
    core.arrive("known", 1000, blocks=first)
    core.finish("known")
    core.arrive("r0", 1500, blocks=second)
    core.arrive("r1", 1500, blocks=second)
    held = core.core.instances["a"].cache.held_blocks
    core.fail("r0", 1, cause)
    assert held(second) == 3  # r1 runs with it
    core.fail("r1", 1, cause)
    assert (held(second), held(first)) == (2, 2)


@pytest.mark.parametrize("cause", [FailureCause.BROKEN, FailureCause.ERROR, FailureCause.ABORTED])
def test_a_prompt_that_an_instance_may_have_run_stays_believed(script, cause):
    core = script("a", "b")
    blocks = core.prompt("a", "b")
    core.arrive("r", 1000, blocks=blocks)
    core.fail("r", 1, cause)
    assert core.core.instances["a"].cache.held_blocks(blocks) == len(blocks)


def test_a_retry_keeps_its_place_by_arrival(script):
    core = script("a", "b", capacity={"max_running": 1})
    core.arrive("r", 10, blocks=core.prompt("a"))
    core.now += 1.0
    core.arrive("running", 5000, blocks=core.prompt("b"))
    core.now += 1.0
    core.arrive("waiting", 10, blocks=core.prompt("b"), ttft_slo_s=1000.0)
    core.now += 1.0
    core.fail("r")
    assert ids(core.finish("running")) == ["r"]


@pytest.mark.parametrize("cause", [*BEFORE_THE_FIRST_TOKEN, FailureCause.STALLED])
def test_a_started_answer_that_breaks_is_not_tried_again(script, cause, empty_books):
    core = script("a", "b")
    core.arrive("r", blocks=core.prompt("a"))
    core.first_token("r")
    assert core.fail("r", 1, cause, tokens_sent=5) == [FailStream("r", cause)]
    assert core.books("a") == empty_books
    assert not core.core.attempts


def test_an_answer_of_which_tokens_were_sent_is_started_even_if_no_first_token_was_told(script):
    core = script("a", "b")
    core.arrive("r")
    assert core.fail("r", 1, FailureCause.BROKEN, tokens_sent=1) == [FailStream("r", FailureCause.BROKEN)]


def test_a_stall_before_the_first_token_runs_elsewhere_until_the_last_one(script):
    core = script("a", "b", max_attempts=2)
    core.arrive("r", blocks=core.prompt("a"))
    assert dispatched(core.fail("r", 1, FailureCause.STALLED)) == [("r", 2, "b")]
    assert core.fail("r", 2, FailureCause.STALLED) == [FailStream("r", FailureCause.STALLED)]


def test_an_assumed_first_token_does_not_keep_a_request_from_being_tried_again(script):
    core = script("a", "b")
    core.arrive("r", blocks=core.prompt("a"), streams=False)
    core.tick(5.0)
    assert dispatched(core.fail("r")) == [("r", 2, "b")]


def test_a_failure_lets_the_next_in_the_queue_start(script):
    core = script("a", capacity={"max_running": 1}, max_attempts=1)
    core.arrive("r0")
    core.arrive("r1")
    assert ids(core.fail("r0")) == ["r1"]


@pytest.mark.parametrize("cause", [FailureCause.CONNECT, FailureCause.ABORTED])
def test_an_instance_that_refused_a_connection_or_ended_an_answer_is_left_alone_for_a_while(script, cause):
    core = script("a", "b", suspect_s=1.0)
    core.arrive("r0", 10, blocks=core.prompt("a"))
    core.fail("r0", 1, cause)
    (dispatch,) = core.arrive("r1", 10, blocks=core.prompt("a"))
    assert dispatch.instance_id == "b"
    core.tick(0.9)
    (dispatch,) = core.arrive("r2", 10, blocks=core.prompt("a"))
    assert dispatch.instance_id == "b"
    core.tick(0.2)
    (dispatch,) = core.arrive("r3", 10, blocks=core.prompt("a"))
    assert dispatch.instance_id == "a"


@pytest.mark.parametrize("cause", [FailureCause.REFUSED, FailureCause.BROKEN, FailureCause.STALLED, FailureCause.ERROR])
def test_other_failures_make_no_instance_suspect(script, cause):
    core = script("a", "b")
    core.arrive("r0", 10, blocks=core.prompt("a"))
    core.fail("r0", 1, cause)
    (dispatch,) = core.arrive("r1", 10, blocks=core.prompt("a"))
    assert dispatch.instance_id == "a"


def test_what_waits_for_a_suspect_keeps_its_place_where_all_others_drain(script):
    core = script("a", "b")
    core.drain("b")
    core.arrive("r0", 3000)
    core.arrive("r1", 3000)
    waits = core.attempt("r1")
    core.fail("r0", cause=FailureCause.CONNECT)
    assert core.attempt("r1") is waits
    assert waits.state is AttemptState.PREFILLING


def test_a_suspect_is_used_if_no_other_is_left(script):
    core = script("a", "b")
    core.arrive("r0", 10, blocks=core.prompt("a"))
    core.fail("r0", 1, FailureCause.CONNECT)
    core.lose("b")
    (dispatch,) = core.arrive("r1", 10)
    assert dispatch.instance_id == "a"


def test_a_lost_suspect_comes_back_without_suspicion(script):
    core = script("a", "b")
    core.arrive("r0", 10, blocks=core.prompt("a"))
    core.fail("r0", 1, FailureCause.CONNECT)
    core.lose("a")
    core.tick()
    core.join("a", incarnation=2)
    (dispatch,) = core.arrive("r1", 10, blocks=core.prompt("a", other_than=1))
    assert dispatch.instance_id == "a"
