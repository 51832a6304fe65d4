"""The choice between a key's candidates and what else is worth a look, as tables."""

from dataclasses import replace

import pytest

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.pick import TIE_S, SessionHome, leaving_gain_s, pick_instance, recompute_price
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.ttft_estimate import TtftEstimate


def estimate(
    instance_id: str,
    cached: int,
    total_s: float,
    prefill_s: float = 0.0,
    running: int = 0,
    shared: int = 0,
    shared_s: float = 0.0,
) -> TtftEstimate:
    return TtftEstimate(
        instance_id,
        cached,
        0,
        work_tokens=0,
        running=running,
        prefill_s=prefill_s,
        total_s=total_s,
        held_tokens=max(cached, shared),
        shared_s=shared_s,
    )


@pytest.mark.parametrize(
    ("first", "second", "expected", "reason"),
    [
        # (cached tokens, seconds to the first token, of these its own prefill) of each; a second of recomputation is
        # worth two of waiting.
        ((4096, 0.5, 0.1), (0, 1.0, 1.0), "first", ChoiceReason.WARM),
        ((0, 1.0, 1.0), (4096, 0.5, 0.1), "second", ChoiceReason.WARM),
        ((4096, 2.7, 0.1), (0, 1.0, 1.0), "first", ChoiceReason.WARM),  # 1.7 s of waiting for 0.9 s
        ((4096, 2.9, 0.1), (0, 1.0, 1.0), "second", ChoiceReason.SWITCHED),  # 1.9 s
        ((0, 1.0, 1.0), (4096, 2.9, 0.1), "first", ChoiceReason.SWITCHED),
        ((4096, 9.0, 0.1), (0, 9.5, 1.0), "first", ChoiceReason.WARM),
        ((4096, 9.0, 0.1), (2048, 8.0, 0.5), "second", ChoiceReason.SWITCHED),
        ((512, 1.0, 0.9), (0, 1.0, 1.0), "first", ChoiceReason.WARM),
        ((0, 1.0, 1.0), (0, 0.9, 0.9), "second", ChoiceReason.BALANCED),
        ((0, 0.9, 0.9), (0, 1.0, 1.0), "first", ChoiceReason.BALANCED),
        ((4096, 9.0, 0.1), (4096, 8.0, 0.1), "second", ChoiceReason.BALANCED),
    ],
)
def test_keeps_the_prefix_where_it_is_cached_unless_leaving_pays_for_computing_it_again(
    first, second, expected, reason
):
    candidates = [estimate("first", *first), estimate("second", *second)]
    chosen, why = pick_instance(candidates, True, 2.0, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("first_running", "second_running", "expected"), [(1, 1, "first"), (2, 1, "second"), (1, 2, "first")]
)
@pytest.mark.parametrize("apart_s", [0.0, 0.9 * TIE_S, -0.9 * TIE_S])
def test_equal_estimates_go_to_the_instance_that_runs_less_then_to_the_first_ring(
    first_running, second_running, expected, apart_s
):
    candidates = [
        estimate("first", 0, 1.0, running=first_running),
        estimate("second", 0, 1.0 + apart_s, running=second_running),
    ]
    assert pick_instance(candidates, True, 0.0, 0.0)[0].instance_id == expected


def test_what_differs_by_more_than_estimates_err_is_not_equal():
    candidates = [estimate("first", 0, 1.0, running=1), estimate("second", 0, 1.0 - 1.1 * TIE_S, running=5)]
    assert pick_instance(candidates, True, 0.0, 0.0)[0].instance_id == "second"


@pytest.mark.parametrize("warm_s", [0.1, 100.0, 1e9])
def test_where_the_objective_does_not_count_the_longer_prefix_always_wins(warm_s: float):
    chosen, why = pick_instance([estimate("cold", 0, 0.0), estimate("warm", 512, warm_s)], False, 4.0, 1.0)
    assert (chosen.instance_id, why) == ("warm", ChoiceReason.WARM)


def test_one_candidate_is_taken_whatever_its_estimate():
    chosen, why = pick_instance([estimate("only", 0, 1e9)], True, 4.0, 1.0)
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
        (0.9, 0.0, "warm"),
    ],
)
def test_the_higher_the_price_the_longer_a_prefix_is_waited_for(warm_s, price, expected):
    candidates = [estimate("warm", 4608, warm_s, prefill_s=0.1), estimate("cold", 0, 1.0, prefill_s=1.0)]
    assert pick_instance(candidates, True, price, 0.0)[0].instance_id == expected


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
    ("warm_s", "own_s", "expected", "reason"),
    [
        # The cold one has nothing of 4096 tokens that many share, which take 1 s, and starts at once. The warm one has
        # them, and what else the prompt has takes 0.1 s on both.
        (0.1, 0.1, "warm", ChoiceReason.BALANCED),
        (0.15, 0.1, "cold", ChoiceReason.BALANCED),
        # It also has the beginning of what only this prompt has, which takes 0.2 s on the cold one: at a price of 2
        # that is worth 0.4 s of waiting.
        (0.65, 0.3, "warm", ChoiceReason.WARM),
        (0.75, 0.3, "cold", ChoiceReason.SWITCHED),
    ],
)
def test_to_copy_a_hot_prefix_costs_nothing_what_a_prompt_has_for_itself_has_its_price(warm_s, own_s, expected, reason):
    warm = estimate("warm", 4096 if own_s == 0.1 else 5120, warm_s, prefill_s=0.1, shared=4096)
    cold = estimate("cold", 0, 1.0 + own_s, prefill_s=1.0 + own_s, shared=4096, shared_s=1.0)
    chosen, why = pick_instance([cold, warm] if own_s == 0.1 else [warm, cold], True, 2.0, 0.0)
    if own_s == 0.1 and expected == "warm":  # equal: the first, whichever it is
        assert (chosen.instance_id, why) == ("cold", reason)
    else:
        assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("estimates", "price", "expected", "reason"),
    [
        # (id, cached tokens, seconds to the first token, of these its own prefill).
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
    chosen, why = pick_instance(candidates, True, price, 0.0)
    assert (chosen.instance_id, why) == (expected, reason)


@pytest.mark.parametrize(
    ("decode_price_s", "first_running", "second_running", "expected"),
    [(0.0, 100, 0, "first"), (0.1, 4, 0, "first"), (0.1, 6, 0, "second"), (0.1, 9, 8, "first")],
)
def test_each_request_that_runs_at_an_instance_costs_time_there(
    decode_price_s, first_running, second_running, expected
):
    # The first would give the first token half a second sooner.
    candidates = [estimate("first", 0, 1.0, running=first_running), estimate("second", 0, 1.5, running=second_running)]
    assert pick_instance(candidates, True, 0.0, decode_price_s)[0].instance_id == expected


@pytest.mark.parametrize(("running", "expected"), [(0, "warm"), (18, "warm"), (20, "cold")])
def test_also_where_the_prefix_is_cached(running: int, expected: str):
    # 0.1 for each that runs there, against 1.0 and 1.0 of recomputation at a price of 0.9.
    candidates = [
        estimate("warm", 4096, 0.0, running=running),
        estimate("cold", 0, 1.0, prefill_s=1.0),
    ]
    assert pick_instance(candidates, True, 0.9, 0.1)[0].instance_id == expected


@pytest.mark.parametrize(
    ("prefill_s", "shared_s", "running", "expected"),
    [
        # Half of what the prompt takes to compute, for each request whose tokens it holds up meanwhile.
        (1.0, 0.0, 0, "first"),
        (1.0, 0.0, 1, "first"),
        (1.0, 0.0, 2, "second"),
        (0.1, 0.0, 11, "first"),
        (0.1, 0.0, 13, "second"),
        (1.0, 1.0, 50, "first"),  # a hot prefix: others save what this one computes
    ],
)
def test_a_prompt_pays_for_the_tokens_that_it_holds_up(prefill_s, shared_s, running, expected):
    candidates = [
        estimate("first", 0, 1.0, prefill_s=prefill_s, running=running, shared=512, shared_s=shared_s),
        estimate("second", 0, 1.6, prefill_s=prefill_s, shared=512, shared_s=shared_s),
    ]
    assert pick_instance(candidates, True, 0.0, 0.0)[0].instance_id == expected


@pytest.mark.parametrize(
    ("tpot_s", "slo_s", "expected"),
    [(0.02, 0.05, "first"), (0.05, 0.05, "first"), (0.06, 0.05, "second"), (0.06, 0.0, "first")],
)
def test_an_instance_that_would_be_too_slow_for_its_answer_costs_what_that_loses(tpot_s, slo_s, expected):
    # 0.01 s of each of 100 tokens, against 0.5 s until the first.
    first = TtftEstimate(
        "first",
        0,
        0,
        work_tokens=0,
        running=0,
        prefill_s=0.0,
        total_s=1.0,
        held_tokens=0,
        shared_s=0.0,
        tpot_s=tpot_s,
        tpot_slo_s=slo_s,
    )
    second = TtftEstimate(
        "second",
        0,
        0,
        work_tokens=0,
        running=0,
        prefill_s=0.0,
        total_s=1.5,
        held_tokens=0,
        shared_s=0.0,
        tpot_s=0.01,
        tpot_slo_s=slo_s,
    )
    assert pick_instance([first, second], True, 0.0, 0.0, 100.0)[0].instance_id == expected


@pytest.mark.parametrize(("busy", "price"), [(0.0, 2.0), (0.25, 4.0), (0.5, 6.0), (1.0, 10.0)])
def test_recomputation_costs_the_more_the_more_the_cluster_has_to_do(busy: float, price: float):
    config = SchedulerConfig(recompute_price_idle=2.0, recompute_price_busy=10.0)
    assert recompute_price(busy, config) == pytest.approx(price)


@pytest.mark.parametrize(
    ("home", "expected", "reason"),
    [
        # (tokens held, seconds to the first token, running) at the session's instance. The best one: 512, 1.0, 0.
        ((512, 1.05, 0), "home", ChoiceReason.SESSION),
        ((512, 1.1, 0), "home", ChoiceReason.SESSION),
        ((512, 1.11, 0), "best", ChoiceReason.WARM),  # noticeably later
        ((0, 1.0, 0), "best", ChoiceReason.WARM),  # a shorter prefix
        ((1024, 1.05, 0), "home", ChoiceReason.SESSION),  # a longer one, though not worth the 0.05 s
        ((512, 1.0, 1), "home", ChoiceReason.SESSION),  # who decodes there costs 0.08 s
        ((512, 1.0, 2), "best", ChoiceReason.WARM),
        ((512, 0.9, 0), "home", ChoiceReason.WARM),
    ],
)
def test_a_session_stays_where_it_ran_if_nothing_but_noise_tells_that_from_the_best(home, expected, reason):
    held, total_s, running = home
    estimates = [
        estimate("cold", 0, 3.0, 1.0),
        estimate("best", 512, 1.0, 0.0),
        estimate("home", held, total_s, 0.0, running),
    ]
    chosen, why = pick_instance(estimates, True, 2.0, 0.08, session_home=SessionHome("home", 0.1))
    assert (chosen.instance_id, why) == (expected, reason)


def test_a_session_does_not_wait_for_a_copy_of_a_hot_prefix():
    """It costs nothing as others will use it, but the first token comes later."""
    candidates = [estimate("best", 2048, 0.1, 0.1), estimate("home", 0, 0.5, 0.5, shared=2048, shared_s=0.4)]
    chosen, _ = pick_instance(candidates, True, 2.0, 0.0, session_home=SessionHome("home", 0.1))
    assert chosen.instance_id == "best"


def test_what_moving_the_session_would_compute_again_is_no_excuse_for_waiting_at_its_home():
    """The best one computes 0.5 s again: priced at 1 s, that is no longer cost of what runs there."""
    warm, best = estimate("warm", 4096, 9.0, 0.1), estimate("best", 2048, 1.0, 0.6)
    home = estimate("home", 2048, 1.05, 0.6, running=9)
    assert pick_instance([warm, best, home], True, 2.0, 0.1, session_home=SessionHome("home", 0.1)) == (
        best,
        ChoiceReason.SWITCHED,
    )


@pytest.mark.parametrize(("lag_s", "expected"), [(0.0, "first"), (0.002, "first"), (0.006, "second"), (-0.1, "first")])
def test_a_whole_answer_counts_where_tokens_take_longer(lag_s: float, expected: str):
    first = replace(estimate("first", 0, 1.0, 1.0), lag_s=lag_s)
    second = estimate("second", 0, 1.5, 1.0)
    chosen, _ = pick_instance([first, second], True, 2.0, 0.0, answer_tokens=100.0)
    assert chosen.instance_id == expected
