"""What one tenant has waiting for one instance, in which order, and who makes room. A token is a millisecond."""

import random
from itertools import combinations

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.deadline_queue import LOOK_AHEAD, SLACK_PER_LATE_S, SLACK_S, DeadlineQueue
from tests.scheduler.made import attempt_of

SECONDS_PER_TOKEN = 0.001
PATIENCE_SLOS = 1.6


def waiting(request_id: str, arrived_at: float = 0.0, work_tokens: int = 100, slo_s: float = 5.0) -> Attempt:
    return attempt_of(Request(request_id, (), 100), arrived_at, work_tokens, slo_s)


def queue_of(*attempts: Attempt, by_deadline: bool = True, handicap: float = 0.0) -> DeadlineQueue:
    queue = DeadlineQueue(by_deadline, PATIENCE_SLOS)
    for attempt in attempts:
        queue.add(attempt, handicap * attempt.work_tokens * SECONDS_PER_TOKEN)
    return queue


def order(queue: DeadlineQueue) -> str:
    return "".join(attempt.request.id for attempt in queue)


def start(queue: DeadlineQueue, now: float, busy_s: float = 0.0) -> str:
    return queue.next(now, now + busy_s, SECONDS_PER_TOKEN).request.id


def starts(queue: DeadlineQueue, now: float) -> str:
    """All of them, one after the other."""
    done = ""
    while len(queue):
        attempt = queue.next(now, now, SECONDS_PER_TOKEN)
        queue.remove(attempt)
        done += attempt.request.id
        now += attempt.work_tokens * SECONDS_PER_TOKEN
    return done


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([("a", 1.0), ("b", 2.0), ("c", 3.0)], "abc"),
        ([("a", 3.0), ("b", 2.0), ("c", 1.0)], "cba"),
        ([("c", 1.0), ("a", 1.0), ("b", 1.0)], "abc"),
    ],
)
@pytest.mark.parametrize("by_deadline", [True, False])
def test_earlier_arrivals_go_first_then_smaller_ids(attempts, expected, by_deadline):
    assert order(queue_of(*(waiting(*a) for a in attempts), by_deadline=by_deadline)) == expected


def test_who_is_late_comes_after_all_others():
    queue = queue_of(waiting("l", 0.0, 3000, slo_s=1.0), waiting("p", 0.5), waiting("q", 1.0))
    assert queue.last.request.id == "q"
    start(queue, now=1.0)  # finds out that l is late
    assert order(queue) == "pql"
    assert queue.last.request.id == "l"


@pytest.mark.parametrize(("handicap", "expected"), [(0.0, "ab"), (0.2, "ab"), (0.3, "ba")])
def test_a_long_prompt_lets_those_pass_that_come_within_its_handicap(handicap: float, expected: str):
    # a is 3 s long and came 0.8 s before b, which is 0.1 s long: they change places where 2.9 x handicap exceeds 0.8.
    queue = queue_of(waiting("a", 0.0, work_tokens=3000), waiting("b", 0.8), handicap=handicap)
    assert order(queue) == expected


def test_a_question_who_would_be_next_puts_nobody_aside():
    # Both cannot be in time: a is the longer one.
    queue = queue_of(waiting("a", 0.0, work_tokens=4000), waiting("b", 1.0, work_tokens=2000))
    asked = queue.would_be_next(1.0, 1.0, SECONDS_PER_TOKEN)
    assert (asked.request.id, order(queue), queue.last_late) == ("b", "ab", None)
    queue.check("after the question")
    assert start(queue, 1.0) == "b"
    assert order(queue) == "ba"


def test_any_attempt_can_be_taken_out():
    rng = random.Random(2)
    attempts = [waiting(f"{i:03}", rng.randrange(5)) for i in range(200)]
    queue = queue_of(*attempts, by_deadline=False)
    rng.shuffle(attempts)
    while attempts:
        queue.remove(attempts.pop())
        assert len(queue) == len(attempts)
        expected = sorted(attempts, key=lambda a: (a.arrived_at, a.request.id))
        assert list(queue) == expected
        if attempts:
            assert queue.next(0.0, 0.0, SECONDS_PER_TOKEN) is expected[0]


def test_any_attempt_can_be_taken_out_whether_it_was_put_aside_or_not():
    rng = random.Random(3)
    attempts = [waiting(f"{i:03}", rng.random() * 5, rng.randrange(1, 900)) for i in range(100)]
    queue = queue_of(*attempts)
    while attempts:
        if rng.random() < 0.5:
            queue.next(5.0, 5.0 + rng.random() * 3, SECONDS_PER_TOKEN)
        queue.remove(attempts.pop(rng.randrange(len(attempts))))
        assert sorted(a.request.id for a in queue) == sorted(a.request.id for a in attempts)
        late = [queue._attempts[request_id] for _, request_id in queue._late]
        assert queue._late_tokens == sum(a.work_tokens for a in late)
        assert queue.work_tokens == sum(a.work_tokens for a in attempts)
    assert queue._late_tokens == 0


# Who makes room.


@pytest.mark.parametrize(
    ("attempts", "expected", "aside"),
    [
        # (id, arrival, tokens); each is due 5 s after it came, and the instance is free at 0.2 s.
        ([("a", 0.0, 1000), ("b", 0.1, 1000)], "ab", ""),
        ([("a", 0.0, 4000), ("b", 0.1, 800), ("c", 0.2, 500)], "bca", "a"),  # c would end at 5.5, due at 5.2
        ([("a", 0.0, 500), ("b", 0.1, 4000), ("c", 0.2, 600)], "acb", "b"),
        ([("a", 0.0, 4700), ("b", 0.1, 100)], "ab", ""),  # b ends at 5.0, due at 5.1
        ([("a", 0.0, 4900), ("b", 0.1, 100)], "ba", "a"),
        ([("a", 0.0, 2600), ("b", 0.1, 2700), ("c", 0.2, 2300)], "acb", "b"),  # b would end at 5.5, due at 5.1
        ([("a", 0.0, 9000), ("b", 0.1, 8000), ("c", 0.2, 100)], "cab", "ab"),
    ],
)
def test_where_somebody_would_be_late_the_longest_up_to_there_makes_room(attempts, expected: str, aside: str):
    queue = queue_of(*(waiting(*a) for a in attempts))
    assert start(queue, 0.2) == expected[0]
    assert sorted(request_id for _, request_id in queue._late) == sorted(aside)
    assert order(queue) == expected


def most_punctual(attempts: list[Attempt], start_s: float) -> int:
    """By trying all subsets, each in the order of its deadlines."""
    by_due = sorted(attempts, key=lambda a: a.deadline_s)
    for size in range(len(by_due), 0, -1):
        for chosen in combinations(by_due, size):
            end_s = start_s
            for attempt in chosen:
                end_s += attempt.work_tokens * SECONDS_PER_TOKEN
                if end_s > attempt.deadline_s:
                    break
            else:
                return size
    return 0


@pytest.mark.parametrize("seed", range(60))
def test_as_many_are_punctual_as_can_be(seed: int):
    rng = random.Random(seed)
    attempts = [
        waiting(str(i), rng.random() * 3, work_tokens=rng.randrange(1, 4000)) for i in range(rng.randrange(1, 9))
    ]
    queue = queue_of(*attempts)
    start_s = 3.0 + rng.random() * 2
    queue.next(3.0, start_s, SECONDS_PER_TOKEN)
    assert len(queue._punctual) == most_punctual(attempts, start_s)


def test_without_deadlines_nobody_is_put_aside():
    queue = queue_of(waiting("a", work_tokens=9000), waiting("b", 0.1), waiting("c", 0.2), by_deadline=False)
    assert starts(queue, 0.2) == "abc"
    assert not queue._late


def test_each_has_its_own_objective():
    queue = queue_of(waiting("a", 0.0, work_tokens=4000, slo_s=60.0), waiting("b", 0.1, slo_s=1.0))
    assert start(queue, 0.1) == "b"
    assert order(queue) == "ba"


# When those put aside are served.


def test_late_ones_are_served_when_nobody_else_is_left_in_the_order_they_came():
    queue = queue_of(waiting("b", 0.1, work_tokens=6000), waiting("a", 0.0, work_tokens=7000), waiting("c", 0.2))
    assert starts(queue, 0.2) == "cab"


@pytest.mark.parametrize(("now", "expected"), [(0.2, "b"), (7.9, "b"), (8.0, "a"), (20.0, "a")])
def test_nobody_is_put_off_for_longer_than_the_patience(now: float, expected: str):
    queue = queue_of(waiting("a", 0.0, work_tokens=6000))
    assert start(queue, 0.2) == "a"  # alone; it is late from here on
    queue.add(waiting("b", now - 0.1, work_tokens=500), 0.0)
    assert start(queue, now) == expected


@pytest.mark.parametrize(("now", "expected"), [(8.0, "a"), (9.0, "b")])
def test_whose_patience_has_ended_goes_first_whether_it_was_put_aside_or_not(now: float, expected: str):
    """b, which is long, takes its place behind c by its handicap; a was put aside; all are due 5 s after they came."""
    queue = queue_of(waiting("a", 0.0, work_tokens=6000), waiting("p", 0.1))
    assert start(queue, 0.2) == "p"
    queue.remove(queue._attempts["p"])
    queue.add(waiting("b", 1.0, work_tokens=3000), 6.0)
    queue.add(waiting("c", 3.0, work_tokens=3000), 0.0)
    if expected != "a":
        queue.remove(queue._attempts["a"])
        queue.add(waiting("d", 2.0, work_tokens=9000, slo_s=60.0), 0.0)
    assert start(queue, now) == expected


def test_those_whose_patience_has_ended_start_in_the_order_they_came():
    rng = random.Random(4)
    attempts = [waiting(f"{i:03}", i / 10, rng.randrange(1, 4000)) for i in range(80)]
    queue = queue_of(*attempts, handicap=4.0)
    started = []
    now = 20.0
    while len(queue):
        attempt = queue.next(now, now, SECONDS_PER_TOKEN)
        queue.remove(attempt)
        started.append(attempt)
        now += attempt.work_tokens * SECONDS_PER_TOKEN
    assert started == attempts


@pytest.mark.parametrize(("slack_s", "expected"), [(-0.001, "b"), (0.001, "a")])
@pytest.mark.parametrize("others", [0, 2])
def test_a_late_one_goes_first_where_that_leaves_the_punctual_ones_slack(slack_s: float, expected: str, others: int):
    """a takes 1 s; b, which takes 0.1 s, must have as much and the reserve to spare."""
    queue = queue_of(waiting("a", 0.0, work_tokens=1000, slo_s=0.65))
    for i in range(others):
        queue.add(waiting(f"later-{i}", 0.1 + i / 100, work_tokens=700, slo_s=0.62), 0.0)
    reserve_s = SLACK_S + SLACK_PER_LATE_S * 0.7 * others
    due_in_s = 0.1 + 1.0 + reserve_s + slack_s
    queue.add(waiting("b", 1.0, slo_s=due_in_s), 0.0)
    assert start(queue, 1.0) == expected
    assert [request_id for _, request_id in queue._punctual] == ["b"]


def test_a_late_one_with_a_generous_objective_does_not_hold_up_those_with_a_tight_one():
    giant = waiting("giant", 0.0, work_tokens=70_000, slo_s=60.0)
    queue = queue_of(giant, waiting("tight", 1.0, work_tokens=6000))
    queue.add(waiting("p", 8.8, work_tokens=100), 0.0)
    assert start(queue, 8.8) == "p"  # both others are late; the tight one is due at 9 s, the giant at 96 s
    assert start(queue, 9.0) == "tight"


def test_one_put_aside_stays_so_while_it_waits():
    late = waiting("a", 0.0, work_tokens=6000)
    queue = queue_of(late, waiting("b", 0.1, work_tokens=4000))
    assert start(queue, 0.2) == "b"
    queue.remove(queue._attempts["b"])
    queue.add(waiting("c", 0.3, work_tokens=4000), 0.0)
    assert order(queue) == "ca"


@pytest.mark.parametrize(("ahead", "aside"), [(LOOK_AHEAD - 1, ["z"]), (LOOK_AHEAD, [])])
def test_no_more_are_looked_at_than_matter_soon(ahead: int, aside: list[str]):
    queue = queue_of(*(waiting(f"{i:03}", work_tokens=10) for i in range(ahead)), waiting("z", 1.0, 20_000))
    assert start(queue, 1.0) == "000"
    assert [request_id for _, request_id in queue._late] == aside
