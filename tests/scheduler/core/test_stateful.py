"""Requests that go on from what one instance keeps. By hand-made events; a token is a millisecond of prefill."""

from dualmap.scheduler.commands import FailStream, RejectReason
from dualmap.scheduler.events import FailureCause
from tests.scheduler.core.seen import dispatched


def test_a_request_goes_to_its_home_whatever_runs_there_and_whatever_its_prefix_says(script):
    core = script(*"abc")
    core.arrive("busy", 10_000, blocks=core.prompt("c"), only=("c",))
    core.arrive("r", 10, blocks=core.prompt("a", "b"), only=("c",), stateful=True)
    assert core.core.attempts["r"].instance_id == "c"


def test_a_home_that_drains_takes_what_goes_on_there_and_nothing_else(script):
    core = script("a", "b")
    core.drain("a")
    assert dispatched(core.arrive("r", only=("a",), stateful=True)) == [("r", 1, "a")]
    (rejected,) = core.arrive("chosen", only=("a",))
    assert rejected.reason is RejectReason.NO_INSTANCE


def test_what_waits_for_its_home_goes_on_waiting_there_when_that_begins_to_drain(script):
    core = script("a", "b", capacity={"max_running": 1})
    core.arrive("first", 1000, blocks=core.prompt("a"), only=("a",))
    core.arrive("r", only=("a",), stateful=True)
    core.drain("a")
    core.first_token("first")
    assert ("r", 1, "a") in dispatched(core.finish("first"))


def test_without_its_home_a_request_is_rejected_at_once(script):
    core = script("a", "b")
    (rejected,) = core.arrive("r", only=("gone",), stateful=True)
    assert rejected.reason is RejectReason.NO_INSTANCE


def test_a_home_that_cannot_be_reached_ends_the_request(script, empty_books):
    core = script("a", "b")
    core.arrive("r", only=("a",), stateful=True)
    assert core.fail("r", 1, FailureCause.CONNECT) == [FailStream("r", FailureCause.CONNECT)]
    assert core.books("a") == empty_books


def test_where_the_home_is_not_known_each_instance_is_asked_once_whatever_max_attempts_says(script):
    core = script(*"abcde", max_attempts=2)
    core.drain("e")
    (sent,) = core.arrive("r", stateful=True)
    asked = [sent.instance_id]
    for number in range(1, 4):
        assert not sent.last
        (sent,) = core.fail("r", number, FailureCause.NOT_HERE)
        asked.append(sent.instance_id)
    assert sent.last
    assert sorted(asked) == list("abcd")


def test_one_that_failed_otherwise_in_a_search_is_not_asked_again(script):
    core = script("a", "b")
    core.arrive("r", stateful=True)
    (second,) = core.fail("r", 1, FailureCause.REFUSED)
    assert second.last
    (rejected,) = core.fail("r", 2, FailureCause.REFUSED)
    assert rejected.reason is RejectReason.ATTEMPTS_EXHAUSTED
