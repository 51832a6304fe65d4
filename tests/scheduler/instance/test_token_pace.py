"""Time per output token, learned from answers that ended."""

import random

import pytest

from dualmap.scheduler.instance.token_pace import ENOUGH_TOKENS, FleetTokenPace, TokenPace

BASE_S, SLOPE_S = 0.010, 4e-8


def gap_s(load: float) -> float:
    return BASE_S + SLOPE_S * load


def learned(seed: int = 0, answers: int = 200, noise: float = 0.0) -> FleetTokenPace:
    rng = random.Random(seed)
    fleet = FleetTokenPace()
    for _ in range(answers):
        load = rng.uniform(0, 500_000)
        fleet.observe(gap_s(load) * (1 + rng.uniform(-noise, noise)), load, 100)
    return fleet


@pytest.mark.parametrize("load", [0, 100_000, 500_000, 800_000])
def test_base_and_slope_are_found(load: int):
    assert learned().gap_s(load) == pytest.approx(gap_s(load), rel=0.01)
    assert learned(noise=0.3).gap_s(load) == pytest.approx(gap_s(load), rel=0.1)


def test_nothing_is_said_before_enough_was_seen():
    fleet = FleetTokenPace()
    fleet.observe(0.02, 1000, int(ENOUGH_TOKENS) - 1)
    assert (fleet.is_known, fleet.gap_s(1000)) == (False, 0.0)
    fleet.observe(0.02, 1000, 1)
    assert fleet.gap_s(1000) == pytest.approx(0.02)


@pytest.mark.parametrize(("gaps", "loads"), [((0.01, 0.03), (0, 400_000)), ((0.03, 0.01), (0, 400_000))])
def test_more_load_is_never_faster_and_no_load_is_not_free(gaps, loads):
    fleet = FleetTokenPace()
    for _ in range(20):
        for gap, load in zip(gaps, loads, strict=True):
            fleet.observe(gap, load, 100)
    assert fleet.slope_s >= 0
    assert fleet.base_s >= 0
    assert fleet.gap_s(400_000) >= fleet.gap_s(0)


def test_a_load_that_never_changes_tells_no_slope():
    fleet = FleetTokenPace()
    for _ in range(50):
        fleet.observe(0.02, 5000.0, 100)
    assert (fleet.slope_s, fleet.base_s) == (0.0, pytest.approx(0.02))


def test_what_was_seen_fades():
    fleet = learned()
    for _ in range(3000):
        fleet.observe(0.5, 100_000, 256)
    assert fleet.gap_s(100_000) == pytest.approx(0.5, rel=0.01)


def test_a_slow_instance_is_told_from_the_others():
    fleet = learned()
    slow, usual = TokenPace(fleet), TokenPace(fleet)
    for _ in range(400):
        slow.observe(2 * gap_s(100_000), 100_000, 100)
        usual.observe(gap_s(100_000), 100_000, 100)
    assert slow.gap_s(50_000) / usual.gap_s(50_000) == pytest.approx(2.0, rel=0.15)
    assert TokenPace(fleet).gap_s(50_000) == pytest.approx(fleet.gap_s(50_000))


@pytest.mark.parametrize(("times", "lag"), [(1.1, 0.0), (0.9, 0.0), (3.0, 2.0), (0.5, -0.5)])
def test_an_instance_that_takes_much_longer_or_less_than_the_fleet_lags_by_a_share(times: float, lag: float):
    fleet = learned()
    pace = TokenPace(fleet)
    assert pace.lag == 0.0
    for _ in range(2000):
        pace.observe(times * fleet.gap_s(100_000), 100_000, 100)
        for _ in range(20):  # the others, by which the fleet's pace stays
            fleet.observe(gap_s(100_000), 100_000, 100)
    assert pace.lag == pytest.approx(lag, abs=0.15 * max(times, 1.0))
    assert pace.gap_s(100_000) == pytest.approx(times * pace.fleet_gap_s(100_000), rel=0.1)
