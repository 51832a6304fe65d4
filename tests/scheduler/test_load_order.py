"""Instances in the order of their load, against a plain sort."""

import random

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.load_order import BUSY_BACKLOG_S, LoadOrder
from tests.scheduler.made import attempt_of, view_of


def ids(views) -> str:
    return "".join(view.instance_id for view in views)


def test_the_coolest_comes_first_and_ties_go_by_name():
    loads = LoadOrder()
    views = {i: view_of(i, loads=loads) for i in "bca"}
    for view in views.values():
        loads.add(view)
    assert (ids(loads.coolest()), ids(loads.hottest())) == ("abc", "cba")
    views["a"].enqueue(attempt_of(Request("r", (), 1000)))
    assert (ids(loads.coolest()), ids(loads.hottest())) == ("bca", "acb")
    assert loads.mean_s == pytest.approx(1.0 / 3)
    assert loads.waiting == 1


def test_of_those_without_a_backlog_who_runs_least_is_coolest():
    loads = LoadOrder()
    views = {i: view_of(i, loads=loads) for i in "abc"}
    attempts = [attempt_of(Request(f"r{n}", (), 100)) for n in range(3)]
    for view in views.values():
        loads.add(view)
    for instance_id, attempt in zip("aab", attempts, strict=True):
        views[instance_id].dispatch(attempt, 100, 0.0)
        views[instance_id].began(attempt, 0.0)
    assert ids(loads.coolest()) == "cba"
    views["a"].release(attempts[0])
    views["a"].release(attempts[1])
    assert ids(loads.coolest()) == "acb"


def test_seconds_count_not_tokens():
    loads = LoadOrder()
    slow, fast = view_of("slow", loads=loads), view_of("fast", loads=loads, prefill_tokens_per_s=8000.0)
    for view, tokens in ((slow, 1000), (fast, 4000)):
        loads.add(view)
        view.enqueue(attempt_of(Request("r", (), tokens)))
    assert [view.instance_id for view in loads.hottest()] == ["slow", "fast"]
    assert loads.mean_s == pytest.approx((1.0 + 0.5) / 2)


def test_one_hot_instance_does_not_make_a_busy_cluster():
    loads = LoadOrder()
    views = [view_of(i, loads=loads) for i in "abcd"]
    for view in views:
        loads.add(view)
    views[0].enqueue(attempt_of(Request("r", (), 60_000)))
    assert loads.mean_s > 10 * BUSY_BACKLOG_S
    assert loads.busy == 0.25


def test_without_instances_there_is_no_backlog():
    loads = LoadOrder()
    view = view_of(loads=loads)
    assert (len(loads), loads.mean_s, ids(loads.coolest())) == (0, 0.0, "")
    loads.add(view)
    view.enqueue(attempt_of(Request("r", (), 1000)))
    loads.remove(view)
    assert (len(loads), loads.mean_s, ids(loads.coolest())) == (0, 0.0, "")


def test_an_instance_that_was_replaced_changes_nothing_any_more():
    loads = LoadOrder()
    old = view_of(loads=loads)
    attempt = attempt_of(Request("r", (), 1000))
    loads.add(old)
    old.enqueue(attempt)
    loads.remove(old)
    new = view_of(loads=loads)
    loads.add(new)
    old.take_out(attempt)
    assert list(loads.coolest()) == [new]
    assert (loads.mean_s, loads.waiting) == (0.0, 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_order_is_that_of_a_sort_after_any_change(seed: int):
    rng = random.Random(seed)
    loads = LoadOrder()
    views = {i: view_of(i, loads=loads, prefill_tokens_per_s=rng.choice((500.0, 1000.0, 4000.0))) for i in "abcdef"}
    ready: set[str] = set()
    waiting, running = [], []
    now = 0.0
    for number in range(800):
        now += rng.random()
        instance_id = rng.choice("abcdef")
        view = views[instance_id]
        match rng.randrange(6):
            case 0 if instance_id in ready and rng.random() < 0.3:
                loads.remove(view)
                ready.remove(instance_id)
            case 0 | 1 if instance_id not in ready:
                loads.add(view)
                ready.add(instance_id)
            case 1 | 2:
                attempt = attempt_of(Request(str(number), (), rng.randrange(1, 5000)))
                view.enqueue(attempt)
                waiting.append((view, attempt))
            case 3 if waiting:
                view, attempt = waiting.pop(rng.randrange(len(waiting)))
                view.take_out(attempt)
                view.dispatch(attempt, 100, now)
                running.append((view, attempt))
            case 4 if running:
                view, attempt = rng.choice(running)
                if attempt.state is AttemptState.PREFILLING:
                    view.speed.observe(attempt.work_tokens, now)
                    view.began(attempt, now)
            case 5 if running:
                view, attempt = running.pop(rng.randrange(len(running)))
                view.release(attempt)
        in_order = sorted((views[i].load_s, i) for i in ready)
        assert [v.instance_id for v in loads.coolest()] == [i for _, i in in_order]
        assert [v.instance_id for v in loads.hottest()] == [i for _, i in in_order][::-1]
        expected = [(views[i].backlog_s, i) for i in ready]
        assert loads.mean_s == pytest.approx(sum(s for s, _ in expected) / len(expected) if expected else 0.0, abs=1e-9)
        busy = sum(min(s, BUSY_BACKLOG_S) for s, _ in expected) / BUSY_BACKLOG_S / len(expected) if expected else 0.0
        assert loads.busy == pytest.approx(busy, abs=1e-9)
        assert loads.waiting == len(waiting)
