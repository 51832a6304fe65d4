"""llm_d: 2 x queue + 2 x free KV cache + 3 x cached share of the prompt."""

import pytest


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_a_cached_prompt_outweighs_the_longest_queue(script):
    core = script("a", "b", policy="llm_d")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    assert where(core.arrive("r1", 2048, blocks=(1, 2, 3, 4))) == warm  # 3 against 2


@pytest.mark.parametrize(("cached", "stays"), [(3, True), (2, False)])
def test_the_longest_queue_outweighs_two_thirds_of_a_prompt(script, cached: int, stays: bool):
    core = script("a", "b", policy="llm_d", capacity={"kv_tokens": 10**9})
    warm = where(core.arrive("r0", 512 * cached, blocks=tuple(range(cached))))
    assert (where(core.arrive("r1", 2048, blocks=(0, 1, 2, 3)[:cached] + (7, 8, 9)[: 4 - cached])) == warm) is stays


def test_decoding_requests_are_no_queue_but_take_kv_cache(script):
    core = script("a", "b", policy="llm_d", capacity={"kv_tokens": 10_000})
    full = where(core.arrive("r0", 5000))
    core.first_token("r0")
    assert core.view(full).booked_kv_tokens >= 5000
    assert where(core.arrive("r1", 100)) != full


def test_queues_count_relative_to_the_longest_and_the_shortest(script):
    core = script("a", "b", "c", policy="llm_d", capacity={"kv_tokens": 10**9})
    placed = [where(core.arrive(f"r{i}", 100)) for i in range(30)]
    assert [placed.count(i) for i in "abc"] == [10, 10, 10]


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="llm_d")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
