"""When requests are released. Time is passed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.loadtest.replay.pace import Pace, due_times, speed_for_qps
from dualmap.loadtest.traces.trace import TraceRequest


def test_requests_are_released_when_due_whatever_else_is_running():
    pace = Pace([0.0, 1.0, 2.0], [None, None, None])
    assert (pace.release(0.5), pace.next_due_s()) == ([0], 1.0)
    assert (pace.release(2.0), pace.next_due_s()) == ([1, 2], None)


def test_a_turn_is_released_when_due_if_the_turn_before_has_ended():
    pace = Pace([0.0, 1.0], [None, 0])
    assert pace.release(0.0) == [0]
    assert pace.end(0) == []
    assert pace.release(1.0) == [1]


def test_a_turn_that_is_due_too_early_goes_when_the_turn_before_ends():
    pace = Pace([0.0, 1.0], [None, 0])
    pace.release(0.0)
    assert pace.release(1.0) == []
    assert pace.never_released() == [1]
    assert pace.end(0) == [1]
    assert pace.never_released() == []


@st.composite
def sessions(draw):
    due = sorted(draw(st.lists(st.floats(0, 100), min_size=1, max_size=30)))
    after = [draw(st.one_of(st.none(), st.integers(0, i - 1))) if i else None for i in range(len(due))]
    return due, after


@given(sessions(), st.randoms(use_true_random=False))
def test_every_request_is_released_once_and_never_before_its_time_or_its_turn(case, rng):
    due, after = case
    pace = Pace(due, after)
    running: list[int] = []
    ended: set[int] = set()
    released: list[int] = []
    now = 0.0
    while len(ended) < len(due):
        going = pace.release(now)
        if running and rng.random() < 0.7:
            done = running.pop(rng.randrange(len(running)))
            ended.add(done)
            going += pace.end(done)
        for index in going:
            assert due[index] <= now
            assert after[index] is None or after[index] in ended
        running += going
        released += going
        if not running and pace.next_due_s() is not None:
            now = max(now, pace.next_due_s())
        now += rng.random()
    assert sorted(released) == list(range(len(due)))
    assert pace.released == len(due)


def test_qps_sets_the_mean_rate_and_keeps_the_shape():
    requests = [TraceRequest(t, 1, 1, (0,)) for t in (5000, 6000, 9000, 15000)]
    due = due_times(requests, speed_for_qps(requests, 8.0))
    assert due == pytest.approx([0.0, 0.05, 0.2, 0.5])


def test_requests_that_all_arrive_at_once_stay_so():
    requests = [TraceRequest(7, 1, 1, (0,))] * 3
    assert due_times(requests, speed_for_qps(requests, 2.0)) == [0.0, 0.0, 0.0]
