"""Cancellation, late events, broken contracts. By hand-made events; a token is a millisecond of prefill."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Abort
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import FailureCause
from tests.scheduler.core.seen import dispatched, ids


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
