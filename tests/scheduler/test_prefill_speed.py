"""Seconds per prefill token: learned from first tokens, within bounds."""

import pytest

from scheduler import Request
from scheduler.ttft import MAX_DRIFT, MIN_OBSERVED_TOKENS, PrefillSpeed, cached_tokens


def observed(speed: PrefillSpeed, seconds_per_token: float, times: int, tokens: int = 4096) -> float:
    for _ in range(times):
        speed.observe(tokens, tokens * seconds_per_token)
    return speed.seconds_per_token


def test_starts_at_the_configured_speed():
    assert PrefillSpeed(1000.0).seconds_per_token == pytest.approx(0.001)


@pytest.mark.parametrize("true_speed", [0.0005, 0.001, 0.002, 0.005])
def test_learns_what_is_observed(true_speed: float):
    assert observed(PrefillSpeed(1000.0), true_speed, 500) == pytest.approx(true_speed, rel=0.02)


def test_moves_towards_each_observation_without_passing_it():
    speed = PrefillSpeed(1000.0)
    last = speed.seconds_per_token
    for _ in range(100):
        now = observed(speed, 0.003, 1)
        assert last < now <= 0.003
        last = now


def test_one_observation_among_many_changes_little():
    speed = PrefillSpeed(1000.0)
    settled = observed(speed, 0.001, 200)
    assert observed(speed, 0.002, 1) < 1.05 * settled


def test_follows_an_instance_that_becomes_slower():
    speed = PrefillSpeed(1000.0)
    observed(speed, 0.001, 1000)
    assert observed(speed, 0.004, 300) == pytest.approx(0.004, rel=0.05)


@pytest.mark.parametrize(("seconds_per_token", "factor"), [(1.0, MAX_DRIFT), (0.0, 1 / MAX_DRIFT)])
def test_never_drifts_beyond_the_bound(seconds_per_token: float, factor: float):
    assert observed(PrefillSpeed(1000.0), seconds_per_token, 10_000) == pytest.approx(0.001 * factor)


def test_comes_back_from_the_bound():
    speed = PrefillSpeed(1000.0)
    observed(speed, 0.1, 100)
    assert observed(speed, 0.001, 2000) == pytest.approx(0.001, rel=0.05)


def test_ignores_prompts_that_measure_the_fixed_cost_of_a_step():
    assert observed(PrefillSpeed(1000.0), 0.5, 1000, MIN_OBSERVED_TOKENS - 1) == pytest.approx(0.001)
    assert observed(PrefillSpeed(1000.0), 0.5, 1000, MIN_OBSERVED_TOKENS) > 0.001


@pytest.mark.parametrize(
    ("prompt_tokens", "blocks", "expected"),
    [(1000, 0, 0), (1000, 1, 512), (1000, 2, 999), (1024, 2, 1023), (1025, 2, 1024), (1, 5, 0), (0, 0, 0), (0, 3, 0)],
)
def test_the_last_token_of_a_prompt_is_always_computed(prompt_tokens: int, blocks: int, expected: int):
    assert cached_tokens(Request("r", (), prompt_tokens), blocks, 512) == expected


def test_one_stall_counts_as_no_more_than_the_slowest_speed_that_is_believed():
    stalled, slow = PrefillSpeed(1000.0), PrefillSpeed(1000.0)
    stalled.observe(300, 60.0)
    slow.observe(300, 300 / 1000.0 * MAX_DRIFT)
    assert stalled.seconds_per_token == slow.seconds_per_token


@pytest.mark.parametrize(("own", "cached"), [(0, 1024), (300, 600), (2000, 2999)])
def test_a_request_may_say_how_many_tokens_its_blocks_stand_for(own, cached):
    assert cached_tokens(Request("r", (1, 2, 3), 3000, block_tokens=own), 2, 512) == cached
