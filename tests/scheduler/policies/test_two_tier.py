"""two_tier: the shortest queue beyond both thresholds, else among those that hold the most of the prompt."""

import pytest

from dualmap.scheduler.events import BlocksStored


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_queues_that_differ_by_more_than_32_are_balanced_first(script):
    core = script("a", "b", policy="two_tier")
    warm = where(core.arrive("r0", blocks=(1, 2)))
    for i in range(1, 33):
        assert where(core.arrive(f"r{i}", blocks=(1, 2))) == warm
    assert where(core.arrive("r33", blocks=(1, 2))) != warm


def test_long_queues_may_differ_by_a_tenth(script):
    core = script("a", "b", policy="two_tier")
    for i in range(800):
        core.arrive(f"r{i}")
    warm = where(core.arrive("w0", blocks=(1, 2)))
    for i in range(1, 41):
        assert where(core.arrive(f"w{i}", blocks=(1, 2))) == warm  # up to 40 more than 400
    assert where(core.arrive("w41", blocks=(1, 2))) != warm


@pytest.mark.parametrize(("cached", "stays"), [(6, True), (5, False)])
def test_more_than_half_of_the_prompt_is_worth_a_longer_queue(script, cached: int, stays: bool):
    core = script("a", "b", policy="two_tier")
    prompt = tuple(range(10))
    warm = where(core.arrive("r0", blocks=prompt[:cached]))
    assert (where(core.arrive("r1", blocks=prompt)) == warm) is stays


def test_of_those_that_hold_the_most_the_shortest_queue_takes_it(script):
    core = script("a", "b", "c", policy="two_tier")
    core.send(BlocksStored("a", (1, 2, 3)))
    core.send(BlocksStored("b", (1, 2, 3)))
    core.send(BlocksStored("c", (1, 2)))
    core.arrive("r0", only=("a",))
    core.arrive("r1", only=("a",))
    core.arrive("r2", only=("b",))
    assert where(core.arrive("r3", blocks=(1, 2, 3))) == "b"


def test_a_prompt_without_blocks_goes_to_the_shortest_queue(script):
    core = script("a", "b", policy="two_tier")
    core.arrive("r0", only=("b",))
    core.arrive("r1", only=("b",))
    assert [where(core.arrive(f"s{i}")) for i in range(2)] == list("aa")


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="two_tier")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
