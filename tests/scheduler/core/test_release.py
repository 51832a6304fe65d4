"""When a request that waits may start. By hand-made events; a token is a millisecond of prefill."""

import pytest

from tests.scheduler.core.seen import ids


def test_an_idle_instance_takes_anything(script):
    core = script("a", capacity={"kv_tokens": 1000, "max_running": 1})
    assert ids(core.arrive("r", 50_000)) == ["r"]


@pytest.mark.parametrize(("booked", "starts"), [(1299, True), (1300, False), (5000, False)])
def test_a_request_is_released_when_less_than_the_window_is_left_to_prefill(script, booked: int, starts: bool):
    core = script("a", release_window_s=1.3)
    core.arrive("r0", booked)
    assert bool(core.arrive("r1", 9000)) is starts


def test_a_first_token_releases_the_next(script):
    core = script("a")
    core.arrive("r0", 2000)
    assert core.arrive("r1", 2000) == []
    core.now += 2.0
    (dispatch,) = core.first_token("r0")
    assert (dispatch.request_id, dispatch.queued_s) == ("r1", pytest.approx(2.0))


def test_no_more_run_at_once_than_the_instance_runs(script):
    core = script("a", capacity={"max_running": 2})
    for i in range(3):
        core.arrive(f"r{i}", 10)
    assert core.first_token("r0") == []
    assert ids(core.finish("r0")) == ["r2"]


@pytest.mark.parametrize(("kv_tokens", "starts"), [(2 * (500 + 100), True), (2 * (500 + 100) - 1, False)])
def test_a_request_waits_for_room_in_the_kv_cache(script, kv_tokens: int, starts: bool):
    core = script("a", capacity={"kv_tokens": kv_tokens}, release_window_s=10.0)
    core.arrive("r0", 500, max_output_tokens=100)
    assert bool(core.arrive("r1", 500, max_output_tokens=100)) is starts
    if not starts:
        assert core.first_token("r0") == []
        assert ids(core.finish("r0")) == ["r1"]


def test_room_for_the_answer_is_what_answers_have_been_taking(script):
    core = script("a", release_window_s=10.0)
    core.arrive("unbounded", 1000)
    assert core.view("a").booked_kv_tokens == 1000 + 256
    core.finish("unbounded", output_tokens=0)
    for i in range(400):
        core.arrive(f"short-{i}", 100)
        core.finish(f"short-{i}", output_tokens=20)
    core.arrive("r", 1000)
    assert core.view("a").booked_kv_tokens == pytest.approx(1000 + 20, abs=1)
    core.arrive("bounded", 100, max_output_tokens=5)
    assert core.view("a").booked_kv_tokens == pytest.approx(1000 + 20 + 100 + 5, abs=1)


def test_what_waits_goes_by_priority_then_by_arrival(script):
    core = script("a", capacity={"max_running": 1})
    core.arrive("now", 10)
    for request_id, priority in (("late", 5), ("usual", 0), ("usual-2", 0), ("urgent", -1)):
        core.now += 0.1
        core.arrive(request_id, 10, priority=priority)
    order = []
    current = "now"
    while released := ids(core.finish(current)):
        (current,) = released
        order.append(current)
    assert order == ["urgent", "usual", "usual-2", "late"]


def test_a_newcomer_does_not_pass_what_waits_before_it(script):
    core = script("a", capacity={"kv_tokens": 2000}, release_window_s=10.0, deadline_order=False)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 1600, max_output_tokens=1)
    assert core.arrive("small", 10, max_output_tokens=1) == []
    assert ids(core.finish("now")) == ["large", "small"]


def test_an_urgent_newcomer_passes_what_waits_if_it_can_start(script):
    core = script("a", capacity={"kv_tokens": 2000}, release_window_s=10.0)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 1600, max_output_tokens=1)
    assert ids(core.arrive("urgent", 10, max_output_tokens=1, priority=-1)) == ["urgent"]


def test_a_request_that_passes_another_computes_the_prefix_that_one_was_to_leave_it(script):
    core = script("a", capacity={"kv_tokens": 3000}, release_window_s=10.0)
    blocks = core.prompt("a", blocks=2)
    core.arrive("now", 500, max_output_tokens=1)
    core.arrive("large", 2600, blocks=blocks, max_output_tokens=1)
    (dispatch,) = core.arrive("urgent", 1500, blocks=blocks, max_output_tokens=1, priority=-1)
    assert (dispatch.request_id, dispatch.cached_tokens) == ("urgent", 0)
    assert core.view("a").booked_prefill_tokens == 500 + 1500
