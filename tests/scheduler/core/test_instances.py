"""What becomes of requests when instances join, drain and are lost, by hand-made events."""

from dataclasses import replace

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Abort, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    FailureCause,
    InstanceJoined,
    PrefixDepths,
)

PATIENT_S = 1000.0  # a SLO so long that a request stays where its prefix is, or was placed first


@pytest.fixture
def busy(script):
    """On a: `started` streams, `prefilling` has no token yet, `waits-1` and `waits-2` wait. b and c are idle."""
    core = script("a", "b", "c")
    shared = core.prompt("a", "b")
    core.arrive("started", 100, blocks=shared)
    core.first_token("started")
    core.arrive("prefilling", 3000, blocks=shared)
    core.arrive("waits-1", 2000, blocks=shared, ttft_slo_s=PATIENT_S)
    core.arrive("waits-2", 2000, blocks=shared, ttft_slo_s=PATIENT_S)
    assert [a.request.id for a in core.view("a").waiting] == ["waits-1", "waits-2"]
    assert list(core.view("a").running) == ["started", "prefilling"]
    return core


def by_request(commands) -> dict[str, list]:
    found: dict[str, list] = {}
    for command in commands:
        found.setdefault(command.request_id, []).append(command)
    return found


def kinds(commands) -> list[type]:
    return [type(command) for command in commands]


# Losing.


def test_when_an_instance_is_lost_each_request_has_the_fate_of_its_state(busy):
    of = by_request(busy.lose("a"))
    assert of["started"] == [Abort("started", 1, "a"), FailStream("started", FailureCause.INSTANCE_LOST)]
    assert of["prefilling"][0] == Abort("prefilling", 1, "a")
    (retry,) = of["prefilling"][1:]
    assert retry.attempt == 2
    assert retry.instance_id in ("b", "c")
    assert set(busy.core.attempts) == {"prefilling", "waits-1", "waits-2"}
    for request_id in ("waits-1", "waits-2"):
        attempt = busy.attempt(request_id)
        assert attempt.number == 1, "it has not been tried, so no attempt is used up"
        assert attempt.instance_id != "a"
    assert "a" not in busy.core.instances
    assert busy.core.stats.retries == 1


def test_the_connection_to_a_lost_instance_is_closed_before_the_request_runs_elsewhere(busy):
    commands = [c for c in busy.lose("a") if c.request_id == "prefilling"]
    assert kinds(commands) == [Abort, Dispatch]


def test_when_the_only_instance_is_lost_what_it_had_is_rejected(script):
    core = script("a")
    core.arrive("prefilling", 3000)
    core.arrive("waits", 3000)
    commands = core.lose("a")
    assert kinds(commands) == [Abort, Reject, Reject]
    assert {c.reason for c in commands[1:]} == {RejectReason.NO_INSTANCE}
    assert not core.core.attempts


def test_an_instance_that_turns_out_to_be_several_is_counted_on_for_no_prefix_and_loses_nothing(busy):
    view = busy.view("a")
    running, waiting = list(view.running), [a.request.id for a in view.waiting]
    event = InstanceJoined("a", view.incarnation, replace(view.capacity, cache_tokens=1))
    assert len(view.cache) > 1
    assert busy.send(event) == []
    assert busy.view("a") is view
    assert len(view.cache) <= 1
    assert (list(view.running), [a.request.id for a in view.waiting]) == (running, waiting)


def test_a_lost_instance_can_join_again(script):
    core = script("a", "b")
    core.lose("a")
    core.join("a", incarnation=2)
    (dispatch,) = core.arrive("r", blocks=core.prompt("a"))
    assert dispatch.instance_id == "a"


@pytest.mark.parametrize("incarnation", [0, 1, 3])
def test_the_loss_of_another_incarnation_is_not_this_ones(script, incarnation: int):
    core = script("b")
    core.join("a", incarnation=2)
    core.arrive("r", blocks=core.prompt("a"))
    assert core.lose("a", incarnation) == []
    assert "a" in core.core.instances
    assert core.core.stats.late_events == 1


# Joining.


def test_a_higher_incarnation_replaces_a_lower_one_with_an_empty_cache(busy):
    of = by_request(busy.join("a", incarnation=2))
    assert of["started"] == [Abort("started", 1, "a"), FailStream("started", FailureCause.INSTANCE_LOST)]
    assert kinds(of["prefilling"]) == [Abort, Dispatch]
    assert busy.view("a").incarnation == 2
    assert not len(busy.view("a").cache)
    assert all(not isinstance(c, Reject) for commands in of.values() for c in commands)


def test_what_a_lone_instance_had_runs_on_the_incarnation_that_replaces_it(script):
    core = script("a")
    core.arrive("prefilling", 3000)
    core.arrive("waits", 3000)
    commands = core.join("a", incarnation=2)
    assert kinds(commands) == [Abort, Dispatch]
    assert (commands[1].request_id, commands[1].attempt) == ("prefilling", 2)
    assert core.attempt("waits").state is AttemptState.WAITING
    assert set(core.view("a").running) | {a.request.id for a in core.view("a").waiting} == {"prefilling", "waits"}


@pytest.mark.parametrize("incarnation", [0, 1])
def test_an_incarnation_that_is_not_higher_changes_nothing(busy, incarnation: int):
    view = busy.view("a")
    assert busy.join("a", incarnation) == []
    assert busy.view("a") is view
    assert busy.core.stats.late_events == 1


def test_a_newcomer_takes_what_arrives_for_it_and_nothing_that_waits(busy):
    assert busy.join("d") == []
    assert busy.view("a").waiting_count == 2
    (dispatch,) = busy.arrive("r", blocks=busy.prompt("d"))
    assert dispatch.instance_id == "d"


def test_each_change_of_membership_has_its_own_version(script):
    core = script()
    versions = [core.core.version]
    for change in (lambda: core.join("a"), lambda: core.join("b"), lambda: core.drain("a"), lambda: core.lose("a")):
        change()
        versions.append(core.core.version)
    assert sorted(set(versions)) == versions
    core.join("b")
    core.lose("nobody")
    assert core.core.version == versions[-1]


# Draining.


def test_when_an_instance_drains_what_waits_goes_elsewhere_and_what_runs_ends_there(busy, empty_books):
    commands = busy.drain("a")
    assert {c.request_id for c in commands} <= {"waits-1", "waits-2"}
    assert {c.instance_id for c in commands if isinstance(c, Dispatch)} <= {"b", "c"}
    assert busy.view("a").waiting_count == 0
    assert list(busy.view("a").running) == ["started", "prefilling"]
    assert busy.first_token("prefilling") == []
    busy.finish("started")
    busy.finish("prefilling")
    assert busy.books("a") == empty_books


def test_a_draining_instance_is_given_nothing_new(busy):
    prompts = [busy.prompt("a", other_than=i) for i in range(10)]
    busy.drain("a")
    for i, blocks in enumerate(prompts):
        busy.arrive(f"r{i}", 10, blocks=blocks)
        assert busy.attempt(f"r{i}").instance_id in ("b", "c")
        assert "a" not in busy.attempt(f"r{i}").candidates


def test_a_request_that_fails_on_a_draining_instance_runs_elsewhere(busy):
    busy.drain("a")
    busy.fail("prefilling")
    assert busy.attempt("prefilling").number == 2
    assert busy.attempt("prefilling").instance_id != "a"


def test_the_last_instance_serves_its_queue_while_it_drains(script, empty_books):
    core = script("a", "b")
    core.drain("b")
    for i in range(3):
        core.arrive(f"r{i}", 5000, ttft_slo_s=PATIENT_S)
    assert core.drain("a") == []
    (rejected,) = core.arrive("late")
    assert rejected.reason is RejectReason.NO_INSTANCE
    for i in range(3):
        released = core.finish(f"r{i}")
        assert [c.request_id for c in released] == ([f"r{i + 1}"] if i < 2 else [])
    assert core.books("a") == empty_books


def test_a_drained_instance_is_lost_without_a_trace(busy):
    busy.drain("a")
    busy.finish("started")
    busy.finish("prefilling")
    assert busy.lose("a") == []
    assert "a" not in busy.core.instances


def test_an_instance_drains_once(script):
    core = script("a", "b")
    core.drain("a")
    assert core.drain("a") == []
    assert core.core.stats.late_events == 1


# What instances report of their caches.


def test_reported_blocks_count_as_cached(script):
    core = script("a", "b")
    blocks = core.prompt("a", blocks=4)
    core.send(BlocksStored("b", blocks))
    (dispatch,) = core.arrive("r", 4000, blocks=blocks)
    assert (dispatch.instance_id, dispatch.cached_tokens) == ("b", 2048)


@pytest.mark.parametrize(
    ("report", "cached_tokens"),
    [
        (lambda blocks: BlocksRemoved("a", blocks[2:3]), 1024),
        (lambda blocks: BlocksRemoved("a", blocks), 0),
        (lambda blocks: CacheCleared("a"), 0),
        (lambda blocks: BlocksRemoved("b", blocks), 2048),
        (lambda blocks: CacheCleared("nobody"), 2048),
        (lambda blocks: BlocksRemoved("nobody", blocks), 2048),
        (lambda blocks: BlocksStored("nobody", blocks), 2048),
    ],
)
def test_removed_blocks_no_longer_count(script, report, cached_tokens: int):
    core = script("a", "b")
    blocks = core.prompt("a", blocks=4)
    core.send(BlocksStored("a", blocks))
    assert core.send(report(blocks)) == []
    core.arrive("r", 4000, blocks=blocks, ttft_slo_s=PATIENT_S)
    assert core.attempt("r").cached_tokens == cached_tokens


def test_what_was_sent_to_an_instance_counts_as_cached_there_and_what_waits_as_soon_to_be(script):
    core = script("a", "b")
    core.arrive("r0", 2000, blocks=core.prompt("a", blocks=2))
    core.arrive("r1", 2000, blocks=core.prompt("a", blocks=3), ttft_slo_s=PATIENT_S)
    core.arrive("r2", 2000, blocks=core.prompt("a", blocks=4), ttft_slo_s=PATIENT_S)
    assert [core.attempt(f"r{i}").uncached_tokens for i in range(3)] == [2000, 2000 - 2 * 512, 2000 - 3 * 512]
    assert core.view("a").backlog_tokens == 2000 + 976 + 464


def at_work(script, **config):
    """One instance that has answered, and one that joins it."""
    core = script("a", slow_start_s=10.0, taking=False, **config)
    core.arrive("first", 10)
    core.first_token("first")
    core.join("b")
    return core


def test_instances_that_join_together_start_at_once(script):
    core = script("a", "b", slow_start_s=10.0)
    assert [core.view(i).service.ramp for i in "ab"] == [1.0, 1.0]


def test_an_instance_that_joins_others_at_work_is_given_load_by_and_by(script):
    core = at_work(script)
    for after_s, ramp in ((0.0, 0.1), (0.5, 0.1), (2.0, 0.25), (2.5, 0.5), (6.0, 1.0)):
        core.tick(after_s)
        assert core.view("b").service.ramp == pytest.approx(ramp)


def test_what_waits_for_a_new_instance_looks_longer_than_it_is(script):
    core = at_work(script)
    shared = core.prompt("b", blocks=1)
    core.arrive("now", 1000, shared)
    there = core.view("b") if core.attempt("now").instance_id == "b" else core.view("a")
    assert there.instance_id == "b"
    assert there.backlog_s == pytest.approx(10.0)
    core.tick(10.0)
    assert there.backlog_s == pytest.approx(1.0)


def test_a_new_instance_runs_few_at_once(script):
    core = at_work(script, release_window_s=1000.0)
    view = core.view("b")
    blocks = core.prompt("b", blocks=1)
    core.drain("a")  # whatever it is, it is all there is
    dispatched = [bool(core.arrive(f"r{i}", 10, blocks)) for i in range(3)]
    assert dispatched == [True, False, False]
    core.tick(10.0)
    assert view.running_count == 3


def test_a_prompt_with_many_homes_is_rejected_where_no_instance_is_left(script):
    core = script("a")
    hot = core.prompt("a")
    core.send(PrefixDepths(1, (), ((hot[-1], 4),)))
    core.lose("a")
    (rejected,) = core.arrive("r", 1000, blocks=hot)
    assert rejected.reason is RejectReason.NO_INSTANCE
