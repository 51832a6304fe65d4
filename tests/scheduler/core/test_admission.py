"""What is turned away, who makes room, and when its client is told to come back."""

import pytest

from dualmap.scheduler import Request, SchedulerConfig
from dualmap.scheduler.admission import (
    MAX_RETRY_S,
    least_important,
    place_with_room,
    queue_is_full,
    reject_exhausted,
    reject_no_instance,
    reject_queue_full,
    reject_too_many,
)
from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.instance.view import InstanceView
from tests.scheduler.made import attempt_of, view_of

CONFIG = SchedulerConfig(max_waiting=3, max_in_flight=5)


def view_with(
    waiting: int, tokens_each: int = 0, priority: int = 0, tenant: str = "", instance_id: str = "a"
) -> InstanceView:
    view = view_of(instance_id)
    for i in range(waiting):
        request = Request(f"{instance_id}{tenant}{i}", (), tokens_each, priority=priority, tenant=tenant)
        view.enqueue(attempt_of(request))
    return view


@pytest.mark.parametrize(("waiting", "full"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_queue_takes_only_so_many(waiting: int, full: bool):
    assert queue_is_full(view_with(waiting), CONFIG) is full


@pytest.mark.parametrize(("tokens_each", "retry_after_s"), [(0, 1.0), (500, 1.0), (4000, 6.0), (10**6, MAX_RETRY_S)])
def test_the_client_comes_back_when_half_of_what_is_ahead_is_worked_off(tokens_each: int, retry_after_s: float):
    rejected = reject_queue_full(Request("r", (), 10), view_with(3, tokens_each))
    assert rejected.reason is RejectReason.QUEUE_FULL
    assert rejected.retry_after_s == pytest.approx(retry_after_s)


@pytest.mark.parametrize(
    ("priority", "tenant", "retry_after_s"), [(0, "flood", 6.0), (0, "quiet", 1.0), (-1, "flood", 1.0), (1, "q", 6.0)]
)
def test_whom_others_do_not_hold_up_may_come_back_soon(priority: int, tenant: str, retry_after_s: float):
    view = view_with(3, 4000, tenant="flood")
    rejected = reject_queue_full(Request("r", (), 10, priority=priority, tenant=tenant), view)
    assert rejected.retry_after_s == pytest.approx(retry_after_s)


@pytest.mark.parametrize(("backlog_s", "retry_after_s"), [(0.0, 1.0), (8.0, 4.0), (1e6, MAX_RETRY_S)])
def test_where_no_place_was_looked_for_the_mean_backlog_counts(backlog_s: float, retry_after_s: float):
    assert reject_too_many("r", backlog_s).retry_after_s == retry_after_s


def test_another_candidate_takes_what_a_full_one_cannot():
    full, long, short = view_with(3), view_with(2, 900, instance_id="b"), view_with(2, 500, instance_id="c")
    estimate = place_with_room(Request("r", (), 10), (full, long, short), CONFIG)
    assert estimate is not None
    assert (estimate.instance_id, estimate.total_s) == ("c", pytest.approx(1.01))
    assert place_with_room(Request("r", (), 10), (full,), CONFIG) is None


@pytest.mark.parametrize(
    ("priority", "tenant", "expected"), [(0, "", "bflood1"), (2, "", "bflood1"), (2, "flood", None), (3, "", None)]
)
def test_of_all_instances_the_least_important_that_waits_makes_room(priority: int, tenant: str, expected: str | None):
    views = (view_with(3, 9000), view_with(2, 100, 2, "flood", "b"), view_with(0, instance_id="c"))
    found = least_important(Request("r", (), 10, priority=priority, tenant=tenant), views)
    assert (found.request.id if found else None) == expected


def test_above_the_limit_of_all_nobody_makes_room_for_an_equal_not_even_who_is_late(script):
    core = script("a", max_in_flight=3)
    core.arrive("now", 5000)
    for request_id in ("late", "later"):
        core.arrive(request_id, 3000, ttft_slo_s=1.0)
    core.first_token("now")
    assert core.view("a").waiting.least_important(Request("r", (), 10), 10, True) is core.attempt("later")
    assert [(type(c), c.request_id) for c in core.arrive("r", 10)] == [(Reject, "r")]


def test_where_nobody_waits_nobody_makes_room():
    assert least_important(Request("r", (), 10), (view_with(0),)) is None


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        (reject_no_instance("r"), RejectReason.NO_INSTANCE),
        (reject_exhausted("r"), RejectReason.ATTEMPTS_EXHAUSTED),
    ],
)
def test_without_an_instance_the_client_comes_back_soon(rejected, reason):
    assert (rejected.request_id, rejected.reason) == ("r", reason)
    assert 0 < rejected.retry_after_s <= 5
