"""A request's way through the core, by hand-made events. A token is a millisecond of prefill."""

import pytest

from dualmap.scheduler.admission import MAX_RETRY_S
from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Abort, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import FailureCause

BEFORE_THE_FIRST_TOKEN = [FailureCause.CONNECT, FailureCause.REFUSED, FailureCause.BROKEN, FailureCause.INSTANCE_LOST]


def dispatched(commands) -> list[tuple[str, int, str]]:
    return [(c.request_id, c.attempt, c.instance_id) for c in commands if isinstance(c, Dispatch)]


def ids(commands) -> list[str]:
    return [c.request_id for c in commands if isinstance(c, Dispatch)]


# Release.


def test_an_idle_instance_takes_anything(script):
    core = script("a", capacity={"kv_tokens": 1000, "max_running": 1})
    assert ids(core.arrive("r", 50_000)) == ["r"]


@pytest.mark.parametrize(("booked", "starts"), [(1299, True), (1300, False), (5000, False)])
def test_a_request_is_released_when_less_than_the_window_is_left_to_prefill(script, booked: int, starts: bool):
    core = script("a", release_window_s=1.3)
    core.arrive("r0", booked)
    assert bool(core.arrive("r1", 9000)) is starts


def test_a_first_token_releases_the_next(script):
    core = script("a")
    core.arrive("r0", 2000)
    assert core.arrive("r1", 2000) == []
    core.now += 2.0
    (dispatch,) = core.first_token("r0")
    assert (dispatch.request_id, dispatch.queued_s) == ("r1", pytest.approx(2.0))


def test_no_more_run_at_once_than_the_instance_runs(script):
    core = script("a", capacity={"max_running": 2})
    for i in range(3):
        core.arrive(f"r{i}", 10)
    assert core.first_token("r0") == []
    assert ids(core.finish("r0")) == ["r2"]


@pytest.mark.parametrize(("kv_tokens", "starts"), [(2 * (500 + 100), True), (2 * (500 + 100) - 1, False)])
def test_a_request_waits_for_room_in_the_kv_cache(script, kv_tokens: int, starts: bool):
    core = script("a", capacity={"kv_tokens": kv_tokens}, release_window_s=10.0)
    core.arrive("r0", 500, max_output_tokens=100)
    assert bool(core.arrive("r1", 500, max_output_tokens=100)) is starts
    if not starts:
        assert core.first_token("r0") == []
        assert ids(core.finish("r0")) == ["r1"]


def test_room_for_the_answer_is_what_answers_have_been_taking(script):
    core = script("a", release_window_s=10.0)
    core.arrive("unbounded", 1000)
    assert core.view("a").booked_kv_tokens == 1000 + 256
    core.finish("unbounded", output_tokens=0)
    for i in range(400):
        core.arrive(f"short-{i}", 100)
        core.finish(f"short-{i}", output_tokens=20)
    core.arrive("r", 1000)
    assert core.view("a").booked_kv_tokens == pytest.approx(1000 + 20, abs=1)
    core.arrive("bounded", 100, max_output_tokens=5)
    assert core.view("a").booked_kv_tokens == pytest.approx(1000 + 20 + 100 + 5, abs=1)


def test_what_waits_goes_by_priority_then_by_arrival(script):
    core = script("a", capacity={"max_running": 1})
    core.arrive("now", 10)
    for request_id, priority in (("late", 5), ("usual", 0), ("usual-2", 0), ("urgent", -1)):
        core.now += 0.1
        core.arrive(request_id, 10, priority=priority)
    order = []
    current = "now"
    while released := ids(core.finish(current)):
        (current,) = released
        order.append(current)
    assert order == ["urgent", "usual", "usual-2", "late"]


def test_a_newcomer_does_not_pass_what_waits_before_it(script):
    core = script("a", capacity={"kv_tokens": 2000}, release_window_s=10.0, deadline_order=False)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 1600, max_output_tokens=1)
    assert core.arrive("small", 10, max_output_tokens=1) == []
    assert ids(core.finish("now")) == ["large", "small"]


def test_an_urgent_newcomer_passes_what_waits_if_it_can_start(script):
    core = script("a", capacity={"kv_tokens": 2000}, release_window_s=10.0)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 1600, max_output_tokens=1)
    assert ids(core.arrive("urgent", 10, max_output_tokens=1, priority=-1)) == ["urgent"]


def test_a_request_that_passes_another_computes_the_prefix_that_one_was_to_leave_it(script):
    core = script("a", capacity={"kv_tokens": 3000}, release_window_s=10.0)
    blocks = core.prompt("a", blocks=2)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 2600, blocks=blocks, max_output_tokens=1)
    (dispatch,) = core.arrive("urgent", 1500, blocks=blocks, max_output_tokens=1, priority=-1)
    assert (dispatch.request_id, dispatch.cached_tokens) == ("urgent", 0)
    assert core.view("a").booked_prefill_tokens == 500 + 1500


# Admission and time-outs.


def test_a_full_queue_rejects(script, empty_books):
    core = script("a", max_waiting=2)
    for i in range(3):
        core.arrive(f"r{i}", 4000)
    (rejected,) = core.arrive("r3", 4000)
    assert rejected == Reject("r3", RejectReason.QUEUE_FULL, pytest.approx(6.0))
    assert "r3" not in core.core.attempts
    assert core.view("a").waiting_count == 2


def test_the_core_rejects_what_it_cannot_remember(script):
    core = script("a", max_in_flight=2)
    core.arrive("r0")
    core.arrive("r1")
    (rejected,) = core.arrive("r2")
    assert (rejected.reason, rejected.request_id) == (RejectReason.QUEUE_FULL, "r2")
    core.cancel("r1")
    assert not any(isinstance(c, Reject) for c in core.arrive("r2"))


def test_without_an_instance_it_rejects(script):
    (rejected,) = script().arrive("r")
    assert rejected.reason is RejectReason.NO_INSTANCE


def test_nobody_waits_longer_than_the_queue_timeout(script, empty_books):
    core = script("a", queue_timeout_s=10.0)
    core.arrive("running", 60_000)
    core.arrive("r1", 1000)
    core.now += 5.0
    core.arrive("r2", 1000)
    assert core.tick(4.9) == []
    (rejected,) = core.tick(1.1)
    assert (rejected.request_id, rejected.reason) == ("r1", RejectReason.QUEUE_TIMEOUT)
    (rejected,) = core.tick(5.0)
    assert rejected.request_id == "r2"
    core.finish("running")
    assert core.books("a") == empty_books


@pytest.mark.parametrize("running_tokens", [1300, 10_000_000])
def test_a_timed_out_client_is_told_a_sensible_time_to_come_back(script, running_tokens: int):
    core = script("a", queue_timeout_s=10.0)
    core.arrive("running", running_tokens)
    core.arrive("r", 1)
    (rejected,) = core.tick(11.0)
    assert 1.0 <= rejected.retry_after_s <= MAX_RETRY_S


def test_when_the_head_of_the_queue_times_out_the_next_may_start(script):
    core = script("a", queue_timeout_s=10.0, capacity={"kv_tokens": 2000}, release_window_s=10.0, deadline_order=False)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 1600, max_output_tokens=1)
    core.now += 1.0
    core.arrive("small", 10, max_output_tokens=1)
    commands = core.tick(9.5)
    assert [type(c) for c in commands] == [Reject, Dispatch]
    assert ids(commands) == ["small"]


def test_the_least_important_that_waits_makes_room(script, empty_books):
    core = script("a", max_waiting=2)
    core.arrive("r0", 4000)
    core.arrive("r1", 4000, priority=1)
    core.arrive("r2", 4000)
    (rejected,) = core.arrive("r3", 4000)
    assert (rejected.request_id, rejected.reason) == ("r1", RejectReason.QUEUE_FULL)
    assert {"r2", "r3"} <= core.core.attempts.keys()
    assert core.core.stats.slo_missed == 1
    for request_id in ("r0", "r2", "r3"):
        core.cancel(request_id)
    assert core.books("a") == empty_books


def test_a_flooding_tenant_makes_room_for_a_quiet_one(script):
    core = script("a", max_waiting=2)
    for i in range(3):
        core.arrive(f"r{i}", 4000, tenant="flood")
    (rejected,) = core.arrive("q", 1000, tenant="quiet")
    assert rejected.request_id == "r2"
    (rejected,) = core.arrive("r3", 4000, tenant="flood")
    assert rejected.request_id == "r3"


def test_what_finds_one_queue_full_waits_at_its_other_candidate(script):
    core = script("a", "b", max_waiting=1, escape=False, find_holders=False)
    blocks = core.prompt("a", "b")
    for i in range(4):
        assert not any(isinstance(c, Reject) for c in core.arrive(f"r{i}", 3000, blocks=core.prompt("a", "b")))
    assert [core.view(i).waiting_count for i in "ab"] == [1, 1]
    (rejected,) = core.arrive("r4", 3000, blocks=blocks)
    assert rejected.request_id == "r4"


def test_the_core_forgets_the_least_important_for_a_more_important_one(script):
    core = script("a", max_in_flight=3)
    for i in range(3):
        core.arrive(f"r{i}", 4000, priority=i)
    (rejected,) = core.arrive("urgent", 4000)
    assert rejected.request_id == "r2"
    assert core.core.attempts.keys() == {"r0", "r1", "urgent"}


def test_a_client_has_its_own_time_out_while_its_request_waits(script, empty_books):
    core = script("a", queue_timeout_s=1.0)
    core.arrive("running", 60_000)
    core.arrive("short", 1000, timeout_s=0.25)
    core.arrive("long", 1000, timeout_s=3.0)
    assert core.tick(0.2) == []
    (rejected,) = core.tick(0.1)
    assert (rejected.request_id, rejected.reason) == ("short", RejectReason.QUEUE_TIMEOUT)
    assert core.tick(2.0) == []
    (rejected,) = core.tick(0.8)
    assert rejected.request_id == "long"
    core.finish("running")
    assert core.books("a") == empty_books


def test_a_client_with_its_own_time_out_waits_no_longer_for_a_dispatched_request_either(script, empty_books):
    core = script("a", queue_timeout_s=1.0)
    core.arrive("impatient", 60_000, timeout_s=2.0)
    core.arrive("next", 1000, timeout_s=9.0)
    assert core.tick(1.9) == []
    abort, rejected, dispatch = core.tick(0.1)
    assert abort == Abort("impatient", 1, "a")
    assert (rejected.request_id, rejected.reason) == ("impatient", RejectReason.FIRST_TOKEN_TIMEOUT)
    assert dispatch.request_id == "next"
    assert core.first_token("impatient") == []
    core.finish("next")
    assert core.books("a") == empty_books
    assert core.core.stats.slo_missed == 1


@pytest.mark.parametrize("streams", [True, False])
def test_a_time_out_ends_with_the_first_token_seen_or_assumed(script, streams: bool):
    core = script("a")
    core.arrive("r", 1000, timeout_s=2.0, streams=streams)
    core.tick(1.5)
    if streams:
        core.first_token("r")
    assert core.tick(9.0) == []
    assert "r" in core.core.attempts


def test_nobody_starts_in_the_tick_in_which_it_is_given_up(script):
    core = script("a", capacity={"max_running": 1})
    core.arrive("r0", 60_000, timeout_s=1.0)
    core.arrive("r1", 1000, timeout_s=1.0)
    commands = core.tick(1.0)
    assert [(type(c), c.request_id) for c in commands] == [(Abort, "r0"), (Reject, "r0"), (Reject, "r1")]


def test_time_outs_of_requests_that_are_over_are_forgotten(script):
    core = script("a")
    for i in range(5000):
        core.arrive(f"r{i}", 1, timeout_s=1e6)
        core.cancel(f"r{i}")
    assert len(core.core.books.time_outs) < 1100


def test_a_flood_leaves_places_for_the_answers_of_others(script):
    core = script("a", capacity={"max_running": 8})
    core.arrive("q0", 10, tenant="quiet")
    core.first_token("q0")
    for i in range(20):
        core.arrive(f"f{i}", 10, tenant="flood")
        core.first_token(f"f{i}")
    assert core.view("a").running_count == 7
    assert ids(core.arrive("q1", 10, tenant="quiet")) == ["q1"]
    assert core.finish("q0") == []
    assert ids(core.finish("q1")) == ["f10", "f11"], "alone again, it may have all places"


# First tokens, seen and assumed.


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


# Failures.


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


def test_a_stalled_request_is_over_even_before_its_first_token(script):
    core = script("a", "b")
    core.arrive("r")
    assert core.fail("r", 1, FailureCause.STALLED) == [FailStream("r", FailureCause.STALLED)]


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


# Suspects.


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


# Cancellation, late events, broken contracts.


@pytest.mark.parametrize("state", ["waiting", "prefilling", "decoding", "assumed"])
def test_a_cancelled_request_gives_back_what_it_booked_whatever_its_state(script, state: str, empty_books):
    core = script("a", "b")
    if state == "waiting":
        core.arrive("before", 5000, blocks=core.prompt("a"))
        core.arrive("r", 5000, blocks=core.prompt("a"), ttft_slo_s=1000.0)
        assert core.attempt("r").state is AttemptState.WAITING
    else:
        core.arrive("r", 1000, blocks=core.prompt("a"), streams=state != "assumed")
    if state == "decoding":
        core.first_token("r")
    if state == "assumed":
        core.tick(2.0)
    assert core.cancel("r") == []
    assert "r" not in core.core.attempts
    if state == "waiting":
        core.finish("before")
    assert core.books("a") == core.books("b") == empty_books
    assert core.core.stats.late_events == 0


def test_a_cancelled_request_lets_the_next_start(script):
    core = script("a")
    core.arrive("r0", 5000)
    core.arrive("r1", 5000)
    assert ids(core.cancel("r0")) == ["r1"]


@pytest.mark.parametrize(
    "late",
    [
        lambda core: core.first_token("r"),
        lambda core: core.first_token("gone"),
        lambda core: core.first_token("retried"),
        lambda core: core.first_token("retried", 3),
        lambda core: core.finish("gone"),
        lambda core: core.finish("retried"),
        lambda core: core.finish("waits"),
        lambda core: core.first_token("waits"),
        lambda core: core.fail("gone"),
        lambda core: core.fail("retried"),
        lambda core: core.fail("waits"),
        lambda core: core.cancel("gone"),
        lambda core: core.cancel("never"),
        lambda core: core.drain("nobody"),
        lambda core: core.lose("nobody"),
        lambda core: core.lose("a", 0),
        lambda core: core.join("a", 1),
        lambda core: core.join("a", 0),
    ],
)
def test_a_late_or_duplicate_event_is_counted_and_dropped(script, late):
    core = script("a", "b", "c")
    core.arrive("r", blocks=core.prompt("a"))
    core.first_token("r")
    core.arrive("gone", blocks=core.prompt("a"))
    core.finish("gone")
    core.arrive("retried", 50_000, blocks=core.prompt("b", "c"))
    core.fail("retried")
    core.arrive("waits", 50_000, blocks=core.prompt("c"), ttft_slo_s=1000.0)
    core.arrive("waits-too", 50_000, blocks=core.prompt("c"), ttft_slo_s=1000.0)
    if core.attempt("waits").state is not AttemptState.WAITING:
        core.cancel("waits")
    books = [core.books(i) for i in "abc"]
    in_flight = set(core.core.attempts)
    assert core.core.stats.late_events == 0
    assert late(core) == []
    assert core.core.stats.late_events == 1
    assert [core.books(i) for i in "abc"] == books
    assert set(core.core.attempts) == in_flight


@pytest.mark.parametrize("state", ["waiting", "prefilling", "decoding"])
def test_a_request_id_in_flight_cannot_be_used_again(script, state: str):
    core = script("a")
    if state == "waiting":
        core.arrive("before", 5000)
    core.arrive("r", 5000)
    if state == "decoding":
        core.first_token("r")
    books = core.books("a")
    with pytest.raises(ContractError, match="'r' is in flight already"):
        core.arrive("r", 5000)
    assert core.books("a") == books


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_request_id_can_be_used_again_once_the_request_is_over(script, end: str):
    core = script("a")
    core.arrive("r")
    getattr(core, end)("r")
    assert dispatched(core.arrive("r")) == [("r", 1, "a")]


def test_no_abort_is_ordered_for_what_the_driver_ended_itself(script):
    core = script("a", "b")
    core.arrive("r0")
    core.arrive("r1")
    commands = core.cancel("r0") + core.fail("r1") + core.finish("r1", 2)
    assert not [c for c in commands if isinstance(c, Abort)]


def test_what_waits_for_an_instance_that_refuses_connections_does_not_try_it_in_turn(script):
    core = script("a", "b")
    shared = core.prompt("a")
    core.arrive("first", 2000, blocks=shared)
    core.arrive("second", 2000, blocks=shared)
    assert core.view("a").waiting_count == 1
    commands = core.fail("first", cause=FailureCause.CONNECT)
    assert core.view("a").waiting_count == core.view("a").running_count == 0
    assert {(c.request_id, c.instance_id, c.attempt) for c in commands} <= {("first", "b", 2), ("second", "b", 1)}
    assert core.attempt("second").tried == frozenset()
