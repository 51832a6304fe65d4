"""Who waited for too long at one instance starts at another before those that came later. A token is a millisecond."""

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.long_waits import LongWaits
from dualmap.scheduler.request import ChoiceReason
from tests.scheduler.made import attempt_of

SLO_S = 2.0
OVERDUE_S = 3 * SLO_S


@pytest.mark.parametrize(
    ("patience_slos", "now", "expected"),
    [
        (2.4, 5.999, ""),
        (2.4, 6.0, "a"),
        (2.4, 7.0, "ab"),
        (1.0, 7.0, "ab"),
        (4.0, 7.999, ""),
        (4.0, 9.0, "ab"),
    ],
)
def test_a_wait_is_too_long_from_three_objectives_on_or_from_the_end_of_patience(patience_slos, now, expected):
    found = {i: attempt_of(Request(i, (), 100), at, slo_s=SLO_S) for i, at in (("b", 1.0), ("a", 0.0), ("c", 4.0))}
    waits = LongWaits(patience_slos, found)
    for attempt in found.values():
        waits.watch(attempt)
    assert "".join(attempt.request.id for attempt in waits.overdue(now)) == expected


def test_who_waits_no_more_is_forgotten_and_who_moved_is_there_once():
    found = {i: attempt_of(Request(i, (), 100), slo_s=SLO_S) for i in "abcd"}
    waits = LongWaits(2.4, found)
    for attempt in [*found.values(), *found.values()]:
        waits.watch(attempt)
    assert len(waits) == 4
    found["a"].dispatch(0, work_tokens=100, own_kv_tokens=100, now=0.0)
    del found["b"]
    found["c"] = attempt_of(Request("c", (), 100), 1.0, slo_s=SLO_S)  # another of the same id
    waits.watch(found["c"])
    assert [attempt.request.id for attempt in waits.overdue(7.0)] == ["d", "c"]
    assert len(waits) == 2


def two_queues(script, **config):
    """Neither instance has room: what comes waits."""
    core = script("a", "b", ttft_slo_s=SLO_S, slo_aware=False, rebalancing=False, escape=False, **config)
    core.arrive("at-a", 30_000, blocks=core.prompt("a", "b"), ttft_slo_s=1000.0)
    core.arrive("at-b", 30_000, blocks=core.prompt("b", "a"), ttft_slo_s=1000.0)
    core.now += 0.01
    return core


@pytest.mark.parametrize(
    ("old", "new", "waited_s", "config", "first"),
    [
        ({}, {}, OVERDUE_S, {}, "old"),
        ({}, {}, OVERDUE_S - 0.2, {}, "new"),
        ({"tenant": "x"}, {"tenant": "y"}, OVERDUE_S, {}, "new"),
        ({"tenant": "x"}, {"tenant": "x"}, OVERDUE_S, {}, "old"),
        ({"priority": 1}, {}, OVERDUE_S, {}, "new"),
        ({"only": ("a",)}, {}, OVERDUE_S, {}, "new"),
        ({}, {}, OVERDUE_S, {"taking": False}, "new"),
        ({}, {}, OVERDUE_S, {"deadline_order": False}, "new"),
        ({"blocks": True}, {}, OVERDUE_S, {}, "new"),  # a has half of it cached
    ],
)
def test_who_has_waited_for_too_long_elsewhere_goes_before_who_came_later(script, old, new, waited_s, config, first):
    core = two_queues(script, **config)
    cached = old.pop("blocks", False)
    blocks = core.prompt("a", "b") if cached else core.prompt("a", "b", other_than=1)
    core.arrive("old", 2048 if cached else 3000, blocks=blocks, **old)
    core.now += waited_s - 0.1
    core.arrive("new", 3000, blocks=core.prompt("b", "a", other_than=1), **new)
    assert (core.attempt("old").instance_id, core.attempt("new").instance_id) == ("a", "b")
    core.now += 0.1
    (dispatch,) = core.first_token("at-b")
    assert (dispatch.request_id, dispatch.instance_id) == (first, "b")
    assert (dispatch.reason is ChoiceReason.TAKEN) is (first == "old")
