"""What waits for one instance, and in which order it would go."""

import random

import pytest

from scheduler import Request
from scheduler.request import Attempt, ChoiceReason
from scheduler.wait_queues import WaitQueue


def waiting(request_id: str, arrived_at: float = 0.0, priority: int = 0, uncached_tokens: int = 100) -> Attempt:
    request = Request(request_id, (), 100, priority=priority)
    return Attempt(request, 1, arrived_at, "a", ("a",), ChoiceReason.BALANCED, 0.0, 0, uncached_tokens)


def queue_of(*attempts: Attempt) -> WaitQueue:
    queue = WaitQueue()
    for attempt in attempts:
        queue.add(attempt)
    return queue


def order(queue: WaitQueue) -> str:
    return "".join(attempt.request.id for attempt in queue)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([("a", 1.0, 0), ("b", 2.0, 0), ("c", 3.0, 0)], "abc"),
        ([("a", 3.0, 0), ("b", 2.0, 0), ("c", 1.0, 0)], "cba"),
        ([("a", 1.0, 1), ("b", 2.0, 0), ("c", 3.0, -1)], "cba"),
        ([("c", 1.0, 0), ("a", 1.0, 0), ("b", 1.0, 0)], "abc"),
    ],
)
def test_lower_priority_values_go_first_then_earlier_arrivals_then_smaller_ids(attempts, expected):
    assert order(queue_of(*(waiting(*a) for a in attempts))) == expected


def test_any_attempt_can_be_taken_out():
    rng = random.Random(2)
    attempts = [waiting(f"{i:03}", rng.randrange(5), rng.randrange(3)) for i in range(200)]
    queue = queue_of(*attempts)
    rng.shuffle(attempts)
    while attempts:
        queue.remove(attempts.pop())
        assert len(queue) == len(attempts)
        expected = sorted(attempts, key=lambda a: (a.request.priority, a.arrived_at, a.request.id))
        assert list(queue) == expected
        if attempts:
            assert queue.first() is expected[0]


def test_only_what_is_released_before_an_attempt_is_ahead_of_it():
    first, second, urgent = waiting("a", 1.0, 0, 10), waiting("b", 2.0, 0, 20), waiting("c", 3.0, -1, 40)
    queue = queue_of(first, second, urgent)
    assert [queue.tokens_ahead(a) for a in (urgent, first, second)] == [0, 40, 50]
