"""The choice between two candidates, as a table."""

import pytest

from scheduler.pick import leaving_gain_s, pick_instance
from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate


def estimate(instance_id: str, cached: int, total_s: float, prefill_s: float = 0.0, running: int = 0) -> TtftEstimate:
    return TtftEstimate(instance_id, cached, 0, running, prefill_s, total_s)


@pytest.mark.parametrize(
    ("first", "second", "expected", "reason"),
    [
        # (cached tokens, seconds to the first token) of each; the limit is 2.5 s, recomputation is free.
        ((4096, 0.5), (0, 0.2), "first", ChoiceReason.WARM),
        ((0, 0.2), (4096, 0.5), "second", ChoiceReason.WARM),
        ((4096, 2.5), (0, 0.2), "first", ChoiceReason.WARM),  # at the limit the SLO is kept
        ((4096, 2.6), (0, 0.2), "second", ChoiceReason.SWITCHED),
        ((0, 0.2), (4096, 2.6), "first", ChoiceReason.SWITCHED),
        ((4096, 9.0), (0, 9.5), "first", ChoiceReason.WARM),  # both would miss the SLO, the warm one by less
        ((4096, 9.0), (2048, 8.9), "second", ChoiceReason.SWITCHED),
        ((512, 1.0), (511, 0.0), "first", ChoiceReason.WARM),
        ((0, 1.0), (0, 0.9), "second", ChoiceReason.BALANCED),
        ((0, 0.9), (0, 1.0), "first", ChoiceReason.BALANCED),
        ((4096, 9.0), (4096, 8.0), "second", ChoiceReason.BALANCED),
    ],
)
def test_keeps_the_prefix_where_it_is_cached_unless_that_would_miss_the_slo(first, second, expected, reason):
    candidates = [estimate("first", *first), estimate("second", *second)]
    chosen, why = pick_instance(candidates, 2.5, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("first_running", "second_running", "expected"), [(1, 1, "first"), (2, 1, "second"), (1, 2, "first")]
)
def test_equal_estimates_go_to_the_instance_that_runs_less_then_to_the_first_ring(
    first_running, second_running, expected
):
    candidates = [estimate("first", 0, 1.0, running=first_running), estimate("second", 0, 1.0, running=second_running)]
    assert pick_instance(candidates, 2.5, 0.0)[0].instance_id == expected


@pytest.mark.parametrize("warm_s", [0.1, 100.0, 1e9])
def test_without_a_limit_the_longer_prefix_always_wins(warm_s: float):
    chosen, why = pick_instance([estimate("cold", 0, 0.0), estimate("warm", 512, warm_s)], None, 4.0)
    assert (chosen.instance_id, why) == ("warm", ChoiceReason.WARM)


def test_one_candidate_is_taken_whatever_its_estimate():
    chosen, why = pick_instance([estimate("only", 0, 1e9)], 2.5, 4.0)
    assert (chosen.instance_id, why) == ("only", ChoiceReason.ONLY_ONE)


@pytest.mark.parametrize(
    ("warm_s", "price", "expected"),
    [
        # The cold candidate would start at once and compute for 1 s, 0.9 s of it what the warm one has cached.
        (3.0, 0.0, "cold"),
        (3.0, 2.0, "cold"),
        (3.0, 2.5, "warm"),
        (4.5, 4.0, "warm"),
        (4.7, 4.0, "cold"),
        (2.4, 0.0, "warm"),  # below the limit nothing is weighed
    ],
)
def test_beyond_the_limit_a_prefix_is_left_only_if_that_pays_for_computing_it_again(warm_s, price, expected):
    candidates = [estimate("warm", 4608, warm_s, prefill_s=0.1), estimate("cold", 0, 1.0, prefill_s=1.0)]
    assert pick_instance(candidates, 2.5, price)[0].instance_id == expected


@pytest.mark.parametrize(
    ("here_s", "there_s", "extra_s", "price", "expected"),
    [
        (1.0, 5.0, 0.0, 0.0, -4.0),
        (5.0, 1.0, 0.0, 4.0, 4.0),
        (5.0, 1.0, 0.5, 4.0, 2.0),
        (5.0, 1.0, 2.0, 4.0, -4.0),
        (5.0, 1.0, -2.0, 4.0, 4.0),
    ],
)
def test_the_gain_of_leaving_is_time_saved_less_the_price_of_recomputation(here_s, there_s, extra_s, price, expected):
    assert leaving_gain_s(here_s, there_s, extra_s, price) == pytest.approx(expected)
