"""What fetching a computed prompt is believed to take (scheduler/instance/transfer_pace.py)."""

import random

import pytest

from dualmap.scheduler.instance.transfer_pace import FIRST_BASE_S, FIRST_SECONDS_PER_TOKEN, TransferPace


def learned(base_s: float, seconds_per_token: float, legs: int = 200, seed: int = 1) -> TransferPace:
    """From legs of many lengths, each within a tenth of what it should take."""
    rng, pace = random.Random(seed), TransferPace()
    for _ in range(legs):
        tokens = rng.randrange(100, 20_000)
        pace.observe(tokens, (base_s + tokens * seconds_per_token) * rng.uniform(0.9, 1.1))
    return pace


def test_at_first_it_is_a_guess() -> None:
    pace = TransferPace()
    assert pace.seconds(0) == pytest.approx(FIRST_BASE_S)
    assert pace.seconds(10_000) == pytest.approx(FIRST_BASE_S + 10_000 * FIRST_SECONDS_PER_TOKEN)


@pytest.mark.parametrize(("base_s", "seconds_per_token"), [(0.005, 1e-6), (0.05, 5e-5), (0.3, 0.0)])
def test_it_learns_what_a_leg_and_what_a_token_takes(base_s: float, seconds_per_token: float) -> None:
    pace = learned(base_s, seconds_per_token, legs=600)
    for tokens in (500, 5000, 20_000):
        assert pace.seconds(tokens) == pytest.approx(base_s + tokens * seconds_per_token, rel=0.2)


def test_a_few_that_hung_change_little() -> None:
    pace = learned(0.02, 1e-5)
    before = pace.seconds(5000)
    for tokens in (200, 5000, 19_000):
        pace.observe(tokens, 30.0)
    assert before < pace.seconds(5000) < 1.1 * before


def test_a_network_that_has_become_slow_is_believed_by_and_by() -> None:
    pace = learned(0.02, 1e-5)
    for number in range(600):
        pace.observe(1000 + 30 * number, 0.02 + (1000 + 30 * number) * 1e-4)
    assert pace.seconds(10_000) == pytest.approx(1.0, rel=0.2)


def test_prompts_of_one_length_say_what_that_length_takes() -> None:
    pace = TransferPace()
    for _ in range(600):
        pace.observe(4000, 0.4)
    assert pace.seconds(4000) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_ever_free_or_faster_for_being_longer(seed: int) -> None:
    rng, pace = random.Random(seed), TransferPace()
    for _ in range(300):
        pace.observe(rng.choice((0, 1, 500, 100_000)), rng.choice((0.0, 1e-6, 0.05, 100.0)))
        assert pace.base_s >= 0.0
        assert pace.seconds_per_token >= 0.0
        assert pace.seconds(1000) > 0.0
