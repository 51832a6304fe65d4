"""How tenants share an instance. A token is a millisecond, and all objectives are far away unless a test says so."""

import random
from collections import Counter

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.fair_queue import CREDIT_TOKENS, REMEMBERED, FairQueue
from tests.scheduler.made import attempt_of

SECONDS_PER_TOKEN = 0.001


def waiting(request_id: str, tenant: str, work_tokens: int = 100, at: float = 0.0, slo_s: float = 1e6) -> Attempt:
    return attempt_of(Request(request_id, (), 100, tenant=tenant), at, work_tokens, slo_s)


def queue_of(*attempts: Attempt) -> FairQueue:
    queue = FairQueue(by_deadline=True, patience_slos=2.0)
    for attempt in attempts:
        queue.add(attempt, 0.0)
    return queue


def flood(tenant: str, count: int, work_tokens: int = 100) -> list[Attempt]:
    return [waiting(f"{tenant}{i:03}", tenant, work_tokens) for i in range(count)]


def start(queue: FairQueue) -> Attempt:
    attempt = queue.next(0.0, 0.0, SECONDS_PER_TOKEN)
    queue.remove(attempt, starts=True)
    return attempt


def served(queue: FairQueue, tokens: int) -> Counter[str]:
    """Work by tenant, of the next so many tokens."""
    work: Counter[str] = Counter()
    while queue and work.total() < tokens:
        attempt = start(queue)
        work[attempt.request.tenant] += attempt.work_tokens
    return work


def test_a_tenant_alone_is_served_in_its_own_order():
    attempts = flood("a", 5)
    queue = queue_of(*reversed(attempts))
    assert list(queue) == attempts
    assert [start(queue) for _ in attempts] == attempts
    assert not queue


@pytest.mark.parametrize("sizes", [(100, 100), (100, 1000), (30, 700, 110), (5000, 10, 10)])
def test_tenants_that_always_wait_get_equal_work_however_long_their_prompts(sizes: tuple[int, ...]):
    queue = queue_of(*(a for i, size in enumerate(sizes) for a in flood(f"t{i}", 60_000 // size, size)))
    work = served(queue, 40_000)
    assert max(work.values()) - min(work.values()) <= 2 * max(sizes)


def test_a_flood_does_not_hold_up_who_comes_with_little():
    queue = queue_of(*flood("flood", 500))
    served(queue, 1000)
    queue.add(waiting("q", "quiet"), 0.0)
    started = [start(queue).request.id for _ in range(2)]
    assert "q" in started


def test_who_comes_after_a_pause_may_have_a_little_at_once_and_then_no_more_than_others():
    queue = queue_of(*flood("a", 900), *flood("b", 900))
    served(queue, 80_000)
    for attempt in flood("late", 600):
        queue.add(attempt, 0.0)
    at_once = served(queue, CREDIT_TOKENS)
    assert at_once["late"] >= CREDIT_TOKENS - 200
    work = served(queue, 15_000)
    assert max(work.values()) - min(work.values()) <= 300


def test_one_request_at_a_time_is_no_way_to_more_than_a_share():
    queue = queue_of(*flood("flood", 2000, 100))
    work: Counter[str] = Counter()
    for i in range(200):
        queue.add(waiting(f"giant{i}", "giant", 2000), 0.0)
        while (attempt := start(queue)).request.tenant != "giant":
            work["flood"] += attempt.work_tokens
            if not queue._queues.get("flood"):
                assert work["flood"] >= 0.9 * work["giant"]
                return
        work["giant"] += attempt.work_tokens
    raise AssertionError("the giants never had to wait")


def test_who_is_taken_elsewhere_or_leaves_has_not_had_its_turn():
    a, b = waiting("a", "a"), waiting("b", "b")
    queue = queue_of(a, waiting("a2", "a"), b)
    queue.remove(a, starts=False)
    assert start(queue).request.id == "a2"
    assert start(queue) is b


def test_it_is_listed_in_the_order_in_which_it_starts():
    rng = random.Random(5)
    attempts = [waiting(f"{i:03}", rng.choice("abc"), rng.randrange(1, 900)) for i in range(80)]
    queue = queue_of(*attempts)
    for _ in range(20):
        start(queue)
    expected = list(queue)
    assert [start(queue) for _ in expected] == expected


@pytest.mark.parametrize(("others", "first"), [(0, "a1"), (1, "a2")])
def test_a_tenant_that_shares_makes_its_own_late_ones_wait_by_the_time_it_has(others: int, first: str):
    """Alone, it has both in time: a1 ends at 4.0 and a2 at 5.0, due at 5.1. At half the pace a1 would end at 8.0."""
    queue = queue_of(waiting("a1", "a", 4000, slo_s=5.0), waiting("a2", "a", 1000, 0.1, 5.0), *flood("b", others))
    assert start(queue).request.id == first


# What placement is told.


@pytest.mark.parametrize(
    ("tenant", "ahead"),
    [
        ("flood", 5000 + 200),  # all of it, and the other's two
        ("quiet", 200 + 200),  # its own, and as much of the flood
        ("third", 0),
    ],
)
def test_the_work_ahead_of_a_newcomer_is_what_its_turns_leave_before_it(tenant: str, ahead: int):
    assert queue_of(*flood("flood", 50), *flood("quiet", 2)).work_ahead(tenant) == ahead


def test_who_just_had_more_than_its_share_has_to_wait_for_it():
    queue = queue_of(*flood("flood", 50, 100), waiting("g", "giant", 3000))
    while start(queue).request.id != "g":
        pass
    assert queue.work_ahead("giant") >= 2900


# Who makes room.


@pytest.mark.parametrize(
    ("tenant", "work_tokens", "in_time", "expected"),
    [
        ("quiet", 100, True, "flood009"),
        ("third", 100, False, "flood009"),
        ("flood", 100, True, None),
        ("third", 1001, True, None),  # more work than the flood
        ("third", 1000, True, None),
        ("third", 999, True, "flood009"),
    ],
)
def test_the_last_of_the_tenant_with_the_most_work_makes_room(tenant, work_tokens, in_time, expected):
    queue = queue_of(*flood("flood", 10), *flood("quiet", 2))
    found = queue.least_important(tenant, work_tokens, in_time)
    assert (found.request.id if found else None) == expected


@pytest.mark.parametrize(("in_time", "expected"), [(True, "late"), (False, None)])
def test_one_that_cannot_be_in_time_makes_room_for_one_of_its_own_tenant_that_can(in_time: bool, expected):
    queue = queue_of(waiting("late", "a", 6000, slo_s=5.0), waiting("b", "a", 100, slo_s=5.0))
    queue.next(0.0, 0.0, SECONDS_PER_TOKEN)
    found = queue.least_important("a", 100, in_time)
    assert (found.request.id if found else None) == expected


def test_tenants_that_are_gone_are_forgotten():
    queue = queue_of(*flood("flood", 1000, 1000))
    for i in range(900):
        queue.add(waiting(f"x{i}", f"tenant-{i}", 1), 0.0)
        served(queue, 1001)
    assert len(queue._tags) <= REMEMBERED + 10
