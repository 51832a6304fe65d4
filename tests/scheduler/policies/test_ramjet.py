"""ramjet: capped blocks ahead of others, less four for each unit of load."""

import pytest

from dualmap.scheduler.policies.ramjet import affinity_blocks


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


@pytest.mark.parametrize(
    ("held", "lead", "affinity"), [(40, 40, 32), (10, 40, 2), (8, 40, 0), (0, 40, 0), (8, 8, 8), (3, 8, 3), (0, 0, 0)]
)
def test_affinity_is_capped_and_relative_to_the_most_that_one_holds(held: int, lead: int, affinity: int):
    assert affinity_blocks(held, lead) == affinity


@pytest.mark.parametrize(("cached", "stays"), [(4, True), (3, False)])
def test_a_request_in_flight_outweighs_less_than_four_blocks(script, cached: int, stays: bool):
    core = script("a", "b", policy="ramjet")
    warm = where(core.arrive("r0", 512 * cached, blocks=tuple(range(cached))))
    core.first_token("r0")
    assert (where(core.arrive("r1", 512 * cached, blocks=tuple(range(cached)))) == warm) is stays  # equal: more blocks


@pytest.mark.parametrize(
    ("prompt_tokens", "units"), [(0, 1), (8192, 1), (8193, 2), (16_384, 2), (57_345, 8), (500_000, 8)]
)
def test_a_request_is_a_unit_for_each_begun_8192_tokens_and_eight_at_most(script, prompt_tokens: int, units: int):
    for cached, stays in ((4 * units, True), (4 * units - 1, False)):
        core = script("a", "b", policy="ramjet")
        prompt = tuple(range(cached))
        warm = where(core.arrive("r0", 512 * cached, blocks=prompt))
        core.finish("r0")
        assert where(core.arrive("load", prompt_tokens, only=(warm,))) == warm
        assert (where(core.arrive("r1", 512 * cached, blocks=prompt)) == warm) is stays


def test_what_was_cached_of_a_prompt_in_flight_is_no_load(script):
    core = script("a", "b", policy="ramjet")
    prompt = tuple(range(32))
    warm = where(core.arrive("r0", 512 * 32, blocks=prompt))
    core.finish("r0")
    assert where(core.arrive("r1", 512 * 32, blocks=prompt)) == warm  # 1 unit, where 16,384 tokens would be 2
    assert where(core.arrive("r2", 512 * 4, blocks=prompt[:4])) == warm


def test_a_request_is_load_until_it_ends(script):
    core = script("a", "b", policy="ramjet")
    first = where(core.arrive("r0", 100))
    core.first_token("r0")
    other = where(core.arrive("r1", 100))
    assert other != first
    core.finish("r0")
    assert where(core.arrive("r2", 100)) == first


@pytest.mark.parametrize(("blocks", "stays"), [(8, True), (7, False)])
def test_its_blocks_have_512_tokens_whatever_the_blocks_of_the_request_have(script, blocks: int, stays: bool):
    core = script("a", "b", policy="ramjet")
    prompt = tuple(range(blocks))
    warm = where(core.arrive("r0", 64 * blocks, blocks=prompt, block_tokens=64))
    core.finish("r0")
    assert (where(core.arrive("r1", 64 * blocks, blocks=prompt, block_tokens=64)) == warm) is stays


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="ramjet")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
