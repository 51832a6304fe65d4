"""Requests that no instance can run wait for one that can."""

from dataclasses import replace

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.commands import Dispatch, Reject, RejectReason
from dualmap.scheduler.events import FailureCause, ServedModel, SettingsChanged, StreamContinued
from dualmap.scheduler.held_requests import HeldWork

NO_INSTANCE, QUEUE_FULL, QUEUE_TIMEOUT = RejectReason.NO_INSTANCE, RejectReason.QUEUE_FULL, RejectReason.QUEUE_TIMEOUT
HOLDS = {"cold_start_timeout_s": 60.0}


def dispatched(commands) -> list[str]:
    return [command.request_id for command in commands if isinstance(command, Dispatch)]


def rejected(commands) -> list[tuple[str, RejectReason]]:
    return [(command.request_id, command.reason) for command in commands if isinstance(command, Reject)]


def test_without_a_time_for_it_a_request_is_refused_at_once(script):
    assert rejected(script().arrive("r")) == [("r", NO_INSTANCE)]


def test_a_request_is_held_until_an_instance_comes_and_its_time_counts_from_its_arrival(script):
    core = script(**HOLDS)
    assert core.arrive("r", 700) == []
    assert core.core.held.work() == HeldWork(1, 700)
    assert (core.core.stats.arrived, core.core.stats.arrived_work_tokens) == (1, 700)
    core.core.check()
    core.now += 20.0
    (command,) = core.join("a")
    assert (command.request_id, command.attempt, command.queued_s) == ("r", 1, 20.0)
    assert core.core.held.work() == HeldWork()
    assert (core.core.stats.arrived, core.core.stats.arrived_work_tokens) == (1, 700)
    core.now += 1.0
    core.first_token("r")
    assert (core.core.stats.slo_kept, core.core.stats.slo_missed) == (0, 1)
    core.finish("r")
    core.core.check()


def test_those_that_are_held_are_placed_the_most_important_first_then_as_they_came(script):
    core = script(**HOLDS)
    for name, priority in (("late", 1), ("first", 0), ("second", 0), ("urgent", -1)):
        core.now += 0.1
        core.arrive(name, 10_000, priority=priority)
    assert dispatched(core.join("a")) == ["urgent"]
    assert [attempt.request.id for attempt in core.view("a").waiting] == ["first", "second", "late"]


@pytest.mark.parametrize(
    ("timeout_s", "after_s", "reason"),
    [(None, 60.0, NO_INSTANCE), (5.0, 5.0, QUEUE_TIMEOUT), (500.0, 60.0, NO_INSTANCE)],
)
def test_the_time_is_over(script, timeout_s: float | None, after_s: float, reason: RejectReason):
    core = script(**HOLDS)
    core.arrive("r", timeout_s=timeout_s)
    assert core.tick(after_s - 0.1) == []
    assert rejected(core.tick(0.1)) == [("r", reason)]
    assert core.core.stats.slo_missed == 1
    assert core.join("a") == []


def test_a_client_that_leaves_is_held_no_more(script):
    core = script(**HOLDS)
    core.arrive("r")
    assert core.cancel("r") == []
    assert core.join("a") == []
    core.cancel("r")
    assert core.core.stats.late_events == 1


def test_more_than_may_wait_are_not_held_and_the_least_important_makes_room(script):
    core = script(max_waiting=2, **HOLDS)
    core.arrive("a1", tenant="a", priority=1)
    core.arrive("a2", tenant="a", priority=1)
    assert rejected(core.arrive("a3", tenant="a", priority=1)) == [("a3", QUEUE_FULL)]
    assert rejected(core.arrive("b1", tenant="b", priority=1)) == [("a2", QUEUE_FULL)]
    assert rejected(core.arrive("c", priority=2)) == [("c", QUEUE_FULL)]
    assert rejected(core.arrive("urgent")) == [("b1", QUEUE_FULL)]
    assert core.core.held.ids() == ["a1", "urgent"]


def test_what_is_held_counts_as_in_flight(script):
    core = script(max_in_flight=2, **HOLDS)
    core.arrive("r1")
    core.arrive("r2")
    assert rejected(core.arrive("r3")) == [("r3", QUEUE_FULL)]
    assert rejected(core.arrive("urgent", priority=-1)) == [("r2", QUEUE_FULL)]


def test_only_an_instance_that_can_run_it_ends_the_wait(script):
    core = script(**HOLDS)
    core.arrive("r", model="code")
    core.arrive("elsewhere", only=("b",))
    assert core.join("a", models=(ServedModel("chat"),)) == []
    core.core.check()
    assert dispatched(core.join("a", models=(ServedModel("chat"), ServedModel("code")))) == ["r"]
    assert dispatched(core.join("b", models=(ServedModel("chat"),))) == ["elsewhere"]


def test_an_adapter_that_is_loaded_later_ends_the_wait(script):
    core = script("a", **HOLDS)
    assert core.arrive("r", adapter="sql") == []
    assert dispatched(core.join("a", adapters=("sql",))) == ["r"]


def test_an_instance_that_stays_after_all_takes_what_came_meanwhile(script):
    core = script("a", **HOLDS)
    core.drain("a")
    assert core.arrive("r") == []
    assert dispatched(core.join("a")) == ["r"]


def test_what_a_lost_instance_had_is_held_and_the_whole_wait_is_bounded(script):
    core = script("a", **HOLDS)
    core.arrive("r")
    core.lose("a")
    assert len(core.core.held) == 1
    core.now += 40.0
    (command,) = core.join("a", incarnation=2)
    assert command.attempt == 2
    core.lose("a", incarnation=2)
    assert core.tick(19.9) == []
    assert rejected(core.tick(0.1)) == [("r", NO_INSTANCE)]


def test_what_was_held_may_wait_in_a_queue_as_long_as_any_other(script):
    core = script(queue_timeout_s=30.0, **HOLDS)
    core.arrive("first", 10_000)
    core.arrive("second", 10_000)
    core.now += 50.0
    assert dispatched(core.join("a")) == ["first"]
    core.core.check()
    assert core.tick(29.9) == []
    assert rejected(core.tick(0.1)) == [("second", QUEUE_TIMEOUT)]


def test_the_rest_of_an_answer_is_held_and_nobody_makes_room_for_it(script):
    core = script("a", max_waiting=1, **HOLDS)
    core.arrive("cut")
    core.first_token("cut")
    core.lose("a")
    core.arrive("r", priority=5)
    rest = StreamContinued(Request("cut", (), 1100, goes_on_after=1, sent_tokens=100), ("a",))
    assert rejected(core.send(rest)) == [("cut", QUEUE_FULL)]
    core.cancel("r")
    assert core.send(rest) == []
    (command,) = core.join("a", incarnation=2)
    assert (command.request_id, command.attempt) == ("cut", 2)


def test_what_an_instance_kept_is_gone_with_it(script):
    core = script(**HOLDS)
    assert rejected(core.arrive("home", only=("a",), stateful=True)) == [("home", NO_INSTANCE)]
    assert rejected(core.arrive("search", stateful=True)) == [("search", NO_INSTANCE)]


def test_another_time_holds_for_those_that_are_held(script):
    core = script(**HOLDS)
    core.arrive("r")
    core.send(SettingsChanged(replace(core.core.config, cold_start_timeout_s=0.0)))
    assert rejected(core.tick()) == [("r", NO_INSTANCE)]
    assert rejected(core.arrive("r2")) == [("r2", NO_INSTANCE)]


def test_its_story_tells_of_the_wait(script):
    core = script(**HOLDS)
    core.arrive("r")
    assert core.core.story("r") == ("held since 0.000 s after its arrival: no instance can run it",)
    core.now += 3.0
    core.join("a")
    assert "held for 3.000 s, until there was an instance that could run it" in core.core.story("r")
    core.fail("r", cause=FailureCause.CONNECT)


def test_an_id_that_is_held_is_in_flight(script):
    core = script(**HOLDS)
    core.arrive("r")
    with pytest.raises(Exception, match="in flight already"):
        core.arrive("r")
