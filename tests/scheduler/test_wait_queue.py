"""What waits for one instance by priority, and when patience counts for more. A token is a millisecond."""

import random
from collections import Counter

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.wait_queues import SHARE_OF_IMPORTANT, WaitQueue
from tests.scheduler.made import attempt_of

SECONDS_PER_TOKEN = 0.001
PATIENCE_SLOS = 2.0
SLO_S = 5.0
PATIENCE_S = PATIENCE_SLOS * SLO_S


def waiting(request_id: str, at: float = 0.0, priority: int = 0, work_tokens: int = 100, tenant: str = "") -> Attempt:
    return attempt_of(Request(request_id, (), 100, priority=priority, tenant=tenant), at, work_tokens, SLO_S)


def queue_of(*attempts: Attempt, by_deadline: bool = True) -> WaitQueue:
    queue = WaitQueue(by_deadline=by_deadline, patience_slos=PATIENCE_SLOS)
    for attempt in attempts:
        queue.add(attempt, 0.0)
    return queue


def start(queue: WaitQueue, now: float) -> Attempt:
    attempt = queue.next(now, now, SECONDS_PER_TOKEN)
    queue.remove(attempt, starts=True)
    return attempt


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([("a", 1.0, 0), ("b", 2.0, 0), ("c", 3.0, 0)], "abc"),
        ([("a", 1.0, 1), ("b", 2.0, 0), ("c", 3.0, -1)], "cba"),
        ([("a", 1.0, 1), ("b", 2.0, 1), ("c", 3.0, -1)], "cab"),
    ],
)
@pytest.mark.parametrize("by_deadline", [True, False])
def test_lower_priority_values_go_first(attempts, expected: str, by_deadline: bool):
    queue = queue_of(*(waiting(*a) for a in attempts), by_deadline=by_deadline)
    assert "".join(a.request.id for a in queue) == expected
    assert "".join(start(queue, 3.0).request.id for _ in range(3)) == expected


def test_a_more_important_one_that_is_late_still_goes_before_a_less_important_one():
    queue = queue_of(waiting("x", 0.0, 1), waiting("a", 0.1, 0, 6000))
    assert start(queue, 0.2).request.id == "a"


def test_any_attempt_can_be_taken_out():
    rng = random.Random(2)
    attempts = [waiting(f"{i:03}", rng.randrange(5), rng.randrange(3), 10, rng.choice("abc")) for i in range(200)]
    queue = queue_of(*attempts)
    rng.shuffle(attempts)
    while attempts:
        if rng.random() < 0.5:
            queue.next(5.0, 5.0 + rng.random() * 3, SECONDS_PER_TOKEN)
        queue.remove(attempts.pop(), starts=rng.random() < 0.5)
        assert len(queue) == len(attempts)
        assert {id(a) for a in queue} == {id(a) for a in attempts}
        assert [a.request.priority for a in queue] == sorted(a.request.priority for a in attempts)
    assert not queue._levels
    assert not queue._priorities


def test_only_what_is_released_before_an_attempt_is_ahead_of_it():
    first, second, urgent = waiting("a", 1.0, 0, 10), waiting("b", 2.0, 0, 20), waiting("c", 3.0, -1, 40)
    queue = queue_of(first, second, urgent)
    assert [queue.tokens_ahead(a) for a in (urgent, first, second)] == [0, 40, 50]


@pytest.mark.parametrize(
    ("priority", "tenant", "ahead"),
    [(-1, "flood", 0), (0, "flood", 340), (0, "quiet", 0), (1, "quiet", 340), (2, "flood", 340 + 70)],
)
def test_what_is_ahead_of_a_newcomer_depends_on_its_priority_and_tenant(priority: int, tenant: str, ahead: int):
    queue = queue_of(
        waiting("a", 0.0, 0, 300, "flood"), waiting("b", 0.1, 0, 40, "flood"), waiting("c", 0.1, 1, 70, "flood")
    )
    assert queue.work_ahead(Request("new", (), 100, priority=priority, tenant=tenant)) == ahead


# Nobody starves.


def under_a_stream(queue: WaitQueue, seconds: float, work_tokens: int = 200) -> list[tuple[float, Attempt]]:
    """What starts when, while as much important work comes as the instance can do."""
    now = 0.0
    started = []
    while now < seconds:
        queue.add(waiting(f"important-{now:07.2f}", now, 0, work_tokens), 0.0)
        attempt = start(queue, now)
        started.append((now, attempt))
        now += attempt.work_tokens * SECONDS_PER_TOKEN
    return started


@pytest.mark.parametrize("by_deadline", [True, False])
@pytest.mark.parametrize("ahead", [0, 500])
def test_the_least_important_is_served_once_it_has_waited_for_its_patience(by_deadline: bool, ahead: int):
    """However many more important ones wait."""
    queue = queue_of(*(waiting(f"a{i}", -1.0, 0, 10) for i in range(ahead)), by_deadline=by_deadline)
    queue.add(waiting("x", 0.0, 5), 0.0)
    times = {attempt.request.id: when for when, attempt in under_a_stream(queue, PATIENCE_S + 2.0)}
    assert PATIENCE_S <= times["x"] <= PATIENCE_S + 0.2


def test_a_flood_of_the_unimportant_is_served_a_fifth_when_all_of_it_has_waited_too_long():
    queue = queue_of(*(waiting(f"x{i:04}", 0.0, 5, 100) for i in range(2000)))
    work: Counter[int] = Counter()
    for when, attempt in under_a_stream(queue, 60.0):
        if when >= PATIENCE_S:
            work[attempt.request.priority] += attempt.work_tokens
    assert work[0] == pytest.approx(SHARE_OF_IMPORTANT * work[5], rel=0.1)


# Who makes room.


@pytest.mark.parametrize(
    ("priority", "tenant", "expected"),
    [(3, "c", None), (2, "c", "x2"), (2, "b", None), (0, "c", "x2"), (-1, "a", "x2"), (0, "b", "x2")],
)
def test_the_least_important_makes_room(priority: int, tenant: str, expected: str | None):
    queue = queue_of(
        waiting("a1", 0.0, 0, 900, "a"),
        waiting("x0", 0.0, 2, 20, "a"),
        waiting("x1", 0.1, 2, 200, "b"),
        waiting("x2", 0.2, 2, 300, "b"),
    )
    found = queue.least_important(Request("new", (), 100, priority=priority, tenant=tenant), 100, True)
    assert (found.request.id if found else None) == expected


def test_where_nobody_waits_nobody_makes_room():
    assert queue_of().least_important(Request("new", (), 100), 100, True) is None
