"""llm_d_precise: 2 x cached share of the prompt + queue + free KV cache."""

import pytest


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


@pytest.mark.parametrize(("cached", "stays"), [(5, True), (4, False)])
def test_more_than_half_a_prompt_outweighs_the_longest_queue(script, cached: int, stays: bool):
    core = script("a", "b", policy="llm_d_precise", capacity={"kv_tokens": 10**9})
    prompt = tuple(range(9))
    warm = where(core.arrive("r0", 512 * cached, blocks=prompt[:cached]))
    assert (where(core.arrive("r1", 512 * 9, blocks=prompt)) == warm) is stays


@pytest.mark.parametrize(("cached", "stays"), [(3, True), (2, False)])
def test_more_than_half_a_prompt_outweighs_a_full_kv_cache(script, cached: int, stays: bool):
    core = script("a", "b", policy="llm_d_precise", capacity={"kv_tokens": 10_000})
    prompt = tuple(range(5))
    warm = where(core.arrive("r0", 12_000, blocks=prompt[:cached]))
    core.first_token("r0")
    assert (where(core.arrive("r1", 512 * 5, blocks=prompt)) == warm) is stays


def test_prompts_that_are_admitted_and_not_computed_are_the_queue(script):
    core = script("a", "b", policy="llm_d_precise", capacity={"kv_tokens": 10**9, "max_running": 100})
    placed = [where(core.arrive(f"r{i}", 100)) for i in range(4)]
    assert placed == list("abab")
    core.first_token("r1")
    core.first_token("r3")
    assert [where(core.arrive(f"s{i}", 100)) for i in range(2)] == list("bb")


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="llm_d_precise")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
