"""cache_aware_balanced: the expected wait less the time that the cached prefix saves."""

import pytest

from dualmap.scheduler.events import BlocksStored


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def waiting(core, instance_id: str, requests: int, tokens: int = 1) -> None:
    for i in range(requests):
        core.arrive(f"{instance_id}{i}", tokens, only=(instance_id,))


@pytest.mark.parametrize(("ahead_tokens", "stays"), [(1900, True), (2100, False)])
def test_a_token_that_is_cached_is_worth_one_that_is_ahead(script, ahead_tokens: int, stays: bool):
    core = script("a", "b", policy="cache_aware_balanced")
    core.send(BlocksStored("a", (1, 2, 3, 4)))
    waiting(core, "a", 1, ahead_tokens)
    assert (where(core.arrive("r", 4096, blocks=tuple(range(1, 9)))) == "a") is stays


@pytest.mark.parametrize(("ahead_tokens", "stays"), [(16_000, True), (17_000, False)])
def test_no_more_than_16384_tokens_are_credited(script, ahead_tokens: int, stays: bool):
    core = script("a", "b", policy="cache_aware_balanced")
    prompt = tuple(range(40))
    core.send(BlocksStored("a", prompt))
    waiting(core, "a", 1, ahead_tokens)
    assert (where(core.arrive("r", 40 * 512 + 1, blocks=prompt)) == "a") is stays


def test_the_credit_of_others_is_relative_to_the_one_that_holds_the_most(script):
    core = script("a", "b", "c", policy="cache_aware_balanced")
    prompt = tuple(range(40))
    core.send(BlocksStored("a", prompt))
    core.send(BlocksStored("b", prompt[:36]))  # above the cap as well, and 2,048 tokens behind
    waiting(core, "a", 1, 1500)
    assert where(core.arrive("r", 40 * 512 + 1, blocks=prompt)) == "a"


@pytest.mark.parametrize(("requests", "stays"), [(7, True), (8, False)])
def test_eight_waiting_prompts_leave_an_instance_out(script, requests: int, stays: bool):
    core = script("a", "b", policy="cache_aware_balanced")
    core.send(BlocksStored("a", (1, 2)))
    waiting(core, "a", requests)
    assert (where(core.arrive("r", 1024, blocks=(1, 2))) == "a") is stays


def test_requests_that_decode_do_not_wait(script):
    core = script("a", "b", policy="cache_aware_balanced")
    core.send(BlocksStored("a", (1, 2)))
    waiting(core, "a", 20)
    for i in range(20):
        core.first_token(f"a{i}")
    assert where(core.arrive("r", 1024, blocks=(1, 2))) == "a"


@pytest.mark.parametrize(("kv_usage", "stays"), [(0.79, True), (0.81, False)])
def test_a_kv_cache_in_use_to_four_fifths_leaves_an_instance_out(script, kv_usage: float, stays: bool):
    core = script("a", "b", policy="cache_aware_balanced", capacity={"kv_tokens": 100_000})
    core.send(BlocksStored("a", (1, 2, 3, 4)))
    core.arrive("large", int(kv_usage * 100_000) - 1, max_output_tokens=1, only=("a",))
    core.now += kv_usage * 100  # as configured, so that the pace stays what it is
    core.first_token("large")
    assert core.view("a").booked_kv_tokens == int(kv_usage * 100_000)
    assert (where(core.arrive("r", 2048, blocks=(1, 2, 3, 4))) == "a") is stays


def test_where_all_are_left_out_the_shortest_wait_takes_it_whatever_is_cached(script):
    core = script("a", "b", policy="cache_aware_balanced")
    core.send(BlocksStored("a", (1, 2, 3, 4)))
    waiting(core, "a", 8, 10)
    waiting(core, "b", 8, 9)
    assert where(core.arrive("r", 2048, blocks=(1, 2, 3, 4))) == "b"


@pytest.mark.parametrize(("ahead_tokens", "stays"), [(140, True), (160, False)])
def test_a_kv_cache_in_use_counts_as_a_wait(script, ahead_tokens: int, stays: bool):
    core = script("a", "b", policy="cache_aware_balanced", capacity={"kv_tokens": 100_000})
    core.arrive("large", 49_999, max_output_tokens=1, only=("a",))
    core.now += 49.999  # as configured, so that the pace stays what it is
    core.first_token("large")
    core.arrive("ahead", ahead_tokens, max_output_tokens=1, only=("b",))
    assert (where(core.arrive("r", 100)) == "b") is stays  # half of it: 0.15 s


def test_a_kv_cache_that_is_overbooked_is_the_fullest(script):
    core = script("a", "b", policy="cache_aware_balanced", capacity={"kv_tokens": 10_000})
    core.arrive("more-than-all", 15_000, only=("a",))
    core.arrive("nearly-all", 9_000, only=("b",))
    core.first_token("more-than-all")
    core.first_token("nearly-all")
    assert where(core.arrive("r", 100)) == "b"


def test_wait_and_credit_are_at_the_pace_of_the_instance(script):
    core = script("a", policy="cache_aware_balanced")
    core.join("b", prefill_tokens_per_s=4000.0)
    waiting(core, "a", 1, 1000)
    waiting(core, "b", 1, 3000)
    assert where(core.arrive("r", 100)) == "b"
    core.send(BlocksStored("a", (1, 2)))
    core.send(BlocksStored("b", (1, 2)))
    assert where(core.arrive("s", 1024, blocks=(1, 2))) == "a"  # 1 - 1.02 s against 0.78 - 0.26


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="cache_aware_balanced")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
