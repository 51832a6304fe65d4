"""Seconds per prefill token: learned from the time between first tokens, within bounds."""

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.instance.pace import MAX_DRIFT, MIN_OBSERVED_TOKENS, PRIOR_TOKENS, FleetPace, PrefillSpeed
from dualmap.scheduler.ttft_estimate import cached_tokens

CONFIGURED_S = 0.001


def speed_of(fleet: FleetPace | None = None) -> PrefillSpeed:
    return PrefillSpeed(1 / CONFIGURED_S, fleet or FleetPace())


def observed(speed: PrefillSpeed, seconds_per_token: float, times: int, tokens: int = 4096) -> float:
    for _ in range(times):
        speed.starts(0.0)
        speed.observe(tokens, tokens * seconds_per_token)
    return speed.seconds_per_token


def test_starts_at_the_configured_speed():
    assert speed_of().seconds_per_token == pytest.approx(CONFIGURED_S)


@pytest.mark.parametrize("true_speed", [0.0005, 0.001, 0.002, 0.005])
def test_learns_what_is_observed_until_nothing_is_left_of_what_was_configured(true_speed: float):
    assert observed(speed_of(), true_speed, 1000) == pytest.approx(true_speed, rel=1e-4)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_few_dozen_prompts_tell_half_and_double_speed(factor: float):
    assert observed(speed_of(), factor * CONFIGURED_S, 40) == pytest.approx(factor * CONFIGURED_S, rel=0.1)


def test_moves_towards_each_observation_without_passing_it():
    speed = speed_of()
    last = speed.seconds_per_token
    for _ in range(100):
        now = observed(speed, 0.003, 1)
        assert last <= now <= 0.003
        last = now
    assert last > 0.0028


def test_one_observation_among_many_changes_little():
    speed = speed_of()
    settled = observed(speed, 0.001, 200)
    assert observed(speed, 0.002, 1) < 1.05 * settled


def test_follows_an_instance_that_becomes_slower():
    speed = speed_of()
    observed(speed, 0.001, 1000)
    assert observed(speed, 0.004, 300) == pytest.approx(0.004, rel=0.05)


@pytest.mark.parametrize(("seconds_per_token", "factor"), [(1.0, MAX_DRIFT), (0.0, 1 / MAX_DRIFT)])
def test_never_drifts_beyond_the_bound(seconds_per_token: float, factor: float):
    believed = observed(speed_of(), factor * CONFIGURED_S, 10_000)
    assert observed(speed_of(), seconds_per_token, 10_000) == pytest.approx(believed)
    assert believed == pytest.approx(factor * CONFIGURED_S)


def test_comes_back_from_the_bound():
    speed = speed_of()
    observed(speed, 0.1, 100)
    assert observed(speed, 0.001, 2000) == pytest.approx(0.001, rel=0.05)


def test_short_prompts_count_once_they_are_as_long_together_as_one_that_counts():
    half = MIN_OBSERVED_TOKENS // 2
    assert observed(speed_of(), 0.003, 1, half) == CONFIGURED_S
    together = observed(speed_of(), 0.003, 1, 2 * half)
    assert together > CONFIGURED_S
    assert observed(speed_of(), 0.003, 2, half) == pytest.approx(together)


def test_prompts_that_end_in_the_same_step_count_together():
    speed, one = speed_of(), speed_of()
    speed.starts(10.0)
    speed.observe(1500, 16.0)
    speed.observe(1500, 16.0)
    one.starts(10.0)
    one.observe(3000, 16.0)
    assert speed.seconds_per_token == one.seconds_per_token > CONFIGURED_S


def test_each_prompt_takes_the_time_since_the_one_before():
    speed = speed_of()
    speed.starts(10.0)
    for number in range(1, 100):
        speed.observe(4000, 10.0 + 4.0 * number)
    assert speed.seconds_per_token == pytest.approx(CONFIGURED_S)


def test_time_without_work_is_not_counted():
    speed = speed_of()
    for hour in range(100):
        speed.starts(3600.0 * hour)
        speed.observe(4000, 3600.0 * hour + 4.0)
    assert speed.seconds_per_token == pytest.approx(CONFIGURED_S)


def test_an_instance_of_which_nothing_is_known_is_taken_to_be_as_the_others_are():
    fleet = FleetPace()
    observed(PrefillSpeed(4000.0, fleet), 0.0005, 1000)  # half as fast as configured
    stranger = speed_of(fleet)
    assert fleet.ratio == pytest.approx(2, rel=1e-4)
    assert stranger.seconds_per_token == pytest.approx(CONFIGURED_S * fleet.ratio)
    assert not stranger.is_known


def test_what_was_learned_of_the_others_is_taken_up_until_an_instance_is_known_itself():
    fleet = FleetPace()
    speed, other = speed_of(fleet), speed_of(fleet)
    observed(other, 0.002, 500)
    assert speed.seconds_per_token == CONFIGURED_S
    speed.refresh()
    assert speed.seconds_per_token == pytest.approx(CONFIGURED_S * fleet.ratio)
    assert not speed.is_known
    observed(speed, 0.001, 1 + int(PRIOR_TOKENS) // 4096)
    assert speed.is_known


@pytest.mark.parametrize(
    ("prompt_tokens", "blocks", "expected"),
    [(1000, 0, 0), (1000, 1, 512), (1000, 2, 999), (1024, 2, 1023), (1025, 2, 1024), (1, 5, 0), (0, 0, 0), (0, 3, 0)],
)
def test_the_last_token_of_a_prompt_is_always_computed(prompt_tokens: int, blocks: int, expected: int):
    assert cached_tokens(Request("r", (), prompt_tokens), blocks, 512) == expected


def test_one_stall_counts_as_no_more_than_the_slowest_speed_that_is_believed():
    stalled, slow = speed_of(), speed_of()
    stalled.observe(3000, 600.0)
    slow.observe(3000, 3000 * CONFIGURED_S * MAX_DRIFT)
    assert stalled.seconds_per_token == slow.seconds_per_token > CONFIGURED_S


@pytest.mark.parametrize(("own", "cached"), [(0, 1024), (300, 600), (2000, 2999)])
def test_a_request_may_say_how_many_tokens_its_blocks_stand_for(own, cached):
    assert cached_tokens(Request("r", (1, 2, 3), 3000, block_tokens=own), 2, 512) == cached
