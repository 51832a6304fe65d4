"""The search on shares that are known functions of the rate."""

import random
from collections.abc import Callable
from math import exp

import pytest

from dualmap.loadtest.study.capacity_search import STEP, CapacitySearch, nearest_place, rate_at


def falling(capacity: float, steepness: float = 20.0) -> Callable[[float], float]:
    """A share that falls through 90 % at the capacity."""
    return lambda qps: 1 / (1 + (qps / capacity) ** steepness / 9)


@pytest.mark.parametrize("steepness", [4.0, 20.0, 60.0])
@pytest.mark.parametrize("guess", [0.5, 0.8, 1.0, 1.1, 3.0])
@pytest.mark.parametrize("capacity", [0.37, 9.29, 1234.5])
def test_finds_a_known_crossing_within_one_per_cent(capacity: float, guess: float, steepness: float) -> None:
    search = CapacitySearch(falling(capacity, steepness))
    assert search.capacity(0.9, guess * capacity) == pytest.approx(capacity, rel=0.01)


def test_a_good_guess_needs_few_runs_for_three_targets() -> None:
    search = CapacitySearch(falling(9.29))
    for target in (0.9, 0.95, 0.99):
        share = 9 * (1 / target - 1)
        assert search.capacity(target, 9.0) == pytest.approx(9.29 * share ** (1 / 20), rel=0.01)
    assert search.probes <= 13


def test_a_target_uses_the_runs_of_another() -> None:
    alone = CapacitySearch(falling(5.0))
    alone.capacity(0.95, 5.0)
    after = CapacitySearch(falling(5.0))
    after.capacity(0.9, 5.0)
    before = after.probes
    after.capacity(0.95, 5.0)
    assert after.probes - before < alone.probes


def test_runs_made_before_are_not_made_again() -> None:
    first = CapacitySearch(falling(5.0))
    found = first.capacity(0.9, 5.0)
    second = CapacitySearch(falling(5.0), known=first.known)
    assert second.capacity(0.9, 5.0) == found
    assert second.probes == 0


def test_a_target_that_no_rate_meets_has_no_capacity() -> None:
    assert CapacitySearch(lambda qps: 0.8).capacity(0.9, 5.0) is None


def test_a_target_that_every_rate_meets_ends_the_search() -> None:
    found = CapacitySearch(lambda qps: 1.0).capacity(0.9, 5.0)
    assert found == pytest.approx(50.0, rel=0.03)


def test_of_several_crossings_the_highest_seen_counts() -> None:
    shares = {0: 0.95, 1: 0.89, 2: 0.93, 3: 0.85}
    search = CapacitySearch(lambda qps: 0.0, known=shares)
    found = search.capacity(0.9, 1.0)
    assert found is not None
    assert rate_at(2) < found < rate_at(3)


def test_noise_does_not_keep_it_from_ending() -> None:
    for seed in range(50):
        noise = random.Random(seed)
        search = CapacitySearch(lambda qps, n=noise: 1 / (1 + exp(qps - 12)) + n.uniform(-0.02, 0.02))
        found = search.capacity(0.9, 8.0)
        assert found is not None
        assert 8.5 < found < 11
        assert search.probes <= 40


def test_rates_lie_on_one_grid() -> None:
    assert rate_at(nearest_place(7.123)) == pytest.approx(7.123, rel=(STEP - 1) / 2 + 1e-4)
    for place in range(-200, 400):
        assert nearest_place(rate_at(place)) == place
