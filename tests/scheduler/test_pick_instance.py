"""The choice between a key's candidates and what else is worth a look, as tables."""

import pytest

from scheduler import SchedulerConfig
from scheduler.pick import BUSY_BACKLOG_S, WARM_SHARE, leaving_gain_s, pick_instance, recompute_price
from scheduler.request import ChoiceReason
from scheduler.ttft import TtftEstimate


def estimate(instance_id: str, cached: int, total_s: float, prefill_s: float = 0.0, running: int = 0) -> TtftEstimate:
    return TtftEstimate(instance_id, cached, 0, 0, running, prefill_s, total_s)


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
    chosen, why = pick_instance(candidates, 2.5, 0.0, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("first_running", "second_running", "expected"), [(1, 1, "first"), (2, 1, "second"), (1, 2, "first")]
)
def test_equal_estimates_go_to_the_instance_that_runs_less_then_to_the_first_ring(
    first_running, second_running, expected
):
    candidates = [estimate("first", 0, 1.0, running=first_running), estimate("second", 0, 1.0, running=second_running)]
    assert pick_instance(candidates, 2.5, 0.0, 0.0)[0].instance_id == expected


@pytest.mark.parametrize("warm_s", [0.1, 100.0, 1e9])
def test_without_a_limit_the_longer_prefix_always_wins(warm_s: float):
    chosen, why = pick_instance([estimate("cold", 0, 0.0), estimate("warm", 512, warm_s)], None, 4.0, 1.0)
    assert (chosen.instance_id, why) == ("warm", ChoiceReason.WARM)


def test_one_candidate_is_taken_whatever_its_estimate():
    chosen, why = pick_instance([estimate("only", 0, 1e9)], 2.5, 4.0, 1.0)
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
    assert pick_instance(candidates, 2.5, price, 0.0)[0].instance_id == expected


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


@pytest.mark.parametrize(
    ("warm_prefill_s", "expected", "reason"),
    [
        # The cold one takes 1 s. The warm one, 2 s, keeps the SLO; recomputation is free.
        (0.1, "warm", ChoiceReason.WARM),
        (WARM_SHARE, "warm", ChoiceReason.WARM),
        (WARM_SHARE + 0.01, "cold", ChoiceReason.SWITCHED),
    ],
)
def test_a_prefix_is_kept_below_the_limit_only_if_it_is_a_good_part_of_the_prompt(warm_prefill_s, expected, reason):
    candidates = [estimate("cold", 0, 1.0, prefill_s=1.0), estimate("warm", 512, 2.0, prefill_s=warm_prefill_s)]
    chosen, why = pick_instance(candidates, 2.5, 0.0, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("estimates", "price", "expected", "reason"),
    [
        # (id, cached tokens, seconds to the first token, of these its own prefill); the limit is 2.5 s.
        ([("a", 0, 3.0, 1.0), ("b", 0, 2.0, 1.0), ("c", 4096, 1.0, 0.1)], 4.0, "c", ChoiceReason.WARM),
        ([("a", 0, 3.0, 1.0), ("b", 0, 2.0, 1.0), ("c", 4096, 4.0, 0.1)], 0.0, "b", ChoiceReason.SWITCHED),
        ([("a", 0, 3.0, 1.0), ("b", 0, 2.0, 1.0), ("c", 4096, 4.0, 0.1)], 3.0, "c", ChoiceReason.WARM),
        # b has half of it and costs 3 + 2 x 0.4 = 3.8; a costs 2.5 + 2 x 0.9 = 4.3; c, the warmest, costs 4.
        ([("a", 0, 2.5, 1.0), ("b", 2048, 3.0, 0.5), ("c", 4096, 4.0, 0.1)], 2.0, "b", ChoiceReason.SWITCHED),
        ([("a", 0, 1.0, 1.0), ("b", 0, 0.9, 0.9), ("c", 0, 0.8, 0.8)], 16.0, "c", ChoiceReason.BALANCED),
        ([("a", 0, 1.0, 1.0), ("b", 0, 1.0, 1.0), ("c", 0, 1.0, 1.0)], 16.0, "a", ChoiceReason.BALANCED),
        # Of two that hold the same, the sooner one.
        ([("a", 4096, 2.0, 0.1), ("b", 4096, 1.0, 0.1), ("c", 0, 0.5, 0.5)], 16.0, "b", ChoiceReason.WARM),
    ],
)
def test_of_several_the_least_of_time_and_price_is_taken(estimates, price: float, expected: str, reason):
    candidates = [estimate(i, cached, total_s, prefill_s) for i, cached, total_s, prefill_s in estimates]
    chosen, why = pick_instance(candidates, 2.5, price, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("decode_price_s", "first_running", "second_running", "expected"),
    [(0.0, 100, 0, "first"), (0.1, 4, 0, "first"), (0.1, 6, 0, "second"), (0.1, 9, 8, "first")],
)
def test_each_request_that_runs_at_an_instance_costs_time_there(
    decode_price_s, first_running, second_running, expected
):
    # The first would give the first token half a second sooner.
    candidates = [
        estimate("first", 0, 1.0, prefill_s=1.0, running=first_running),
        estimate("second", 0, 1.5, prefill_s=1.0, running=second_running),
    ]
    assert pick_instance(candidates, 2.5, 0.0, decode_price_s)[0].instance_id == expected


@pytest.mark.parametrize(("running", "expected"), [(0, "warm"), (9, "warm"), (11, "cold")])
def test_beyond_the_limit_decoding_among_others_is_weighed_with_the_rest(running: int, expected: str):
    # 3.0 + 0.1 for each that runs there, against 3.1 and 1.0 of recomputation at a price of 0.9.
    candidates = [
        estimate("warm", 4096, 3.0, prefill_s=0.1, running=running),
        estimate("cold", 0, 3.1, prefill_s=1.1),
    ]
    assert pick_instance(candidates, 2.5, 0.9, 0.1)[0].instance_id == expected


@pytest.mark.parametrize(
    ("mean_backlog_s", "price"),
    [(0.0, 2.0), (0.25 * BUSY_BACKLOG_S, 4.0), (0.5 * BUSY_BACKLOG_S, 6.0), (BUSY_BACKLOG_S, 10.0), (60.0, 10.0)],
)
def test_recomputation_costs_the_more_the_more_the_cluster_has_to_do(mean_backlog_s: float, price: float):
    config = SchedulerConfig(recompute_price_idle=2.0, recompute_price_busy=10.0)
    assert recompute_price(mean_backlog_s, config) == pytest.approx(price)
