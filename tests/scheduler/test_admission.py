"""What is turned away, and when its client is told to come back."""

import pytest

from scheduler import Request, SchedulerConfig
from scheduler.admission import MAX_RETRY_S, reject_if_full, reject_if_queue_full, reject_no_instance
from scheduler.commands import RejectReason
from scheduler.instance_view import InstanceView
from tests.scheduler.made import attempt_of, view_of

CONFIG = SchedulerConfig(max_waiting=3, max_in_flight=5)


def view_with(waiting: int, tokens_each: int = 0) -> InstanceView:
    view = view_of()
    for i in range(waiting):
        view.enqueue(attempt_of(Request(str(i), (), tokens_each)))
    return view


@pytest.mark.parametrize(("waiting", "rejected"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_full_queue_takes_no_more(waiting: int, rejected: bool):
    assert (reject_if_queue_full("r", view_with(waiting), CONFIG) is not None) is rejected


@pytest.mark.parametrize(("tokens_each", "retry_after_s"), [(0, 1.0), (500, 1.0), (4000, 6.0), (10**6, MAX_RETRY_S)])
def test_the_client_comes_back_when_half_the_backlog_is_worked_off(tokens_each: int, retry_after_s: float):
    rejected = reject_if_queue_full("r", view_with(3, tokens_each), CONFIG)
    assert rejected is not None
    assert rejected.reason is RejectReason.QUEUE_FULL
    assert rejected.retry_after_s == pytest.approx(retry_after_s)


@pytest.mark.parametrize(("in_flight", "rejected"), [(0, False), (4, False), (5, True), (6, True)])
def test_the_core_knows_no_more_requests_than_it_may(in_flight: int, rejected: bool):
    assert (reject_if_full("r", in_flight, CONFIG) is not None) is rejected


def test_without_an_instance_the_client_comes_back_soon():
    rejected = reject_no_instance("r")
    assert (rejected.request_id, rejected.reason) == ("r", RejectReason.NO_INSTANCE)
    assert 0 < rejected.retry_after_s <= 5
