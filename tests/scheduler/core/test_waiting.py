"""Who may wait, and for how long. By hand-made events; a token is a millisecond of prefill."""

import pytest

from dualmap.scheduler.admission import MAX_RETRY_S
from dualmap.scheduler.commands import Abort, Dispatch, Reject, RejectReason
from tests.scheduler.core.seen import ids


def test_a_full_queue_rejects(script, empty_books):
    core = script("a", max_waiting=2)
    for i in range(3):
        core.arrive(f"r{i}", 4000)
    (rejected,) = core.arrive("r3", 4000)
    assert rejected == Reject("r3", RejectReason.QUEUE_FULL, rejected.retry_after_s)
    assert rejected.retry_after_s == pytest.approx(6.0)
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
