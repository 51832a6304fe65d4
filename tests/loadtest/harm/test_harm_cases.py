"""Cases of dualmap.loadtest.harm: each field does what it says, and the same numbers make the same run."""

import random
from dataclasses import replace
from statistics import median

import pytest

from dualmap.loadtest.harm.case import DEFAULT, LONGEST_TOKENS, NAMES, Case, as_json, case_of, changed
from dualmap.loadtest.harm.case_cluster import cluster_of, fleet_speed, request_s
from dualmap.loadtest.harm.case_sessions import request_count, requests_per_s, workload_of
from dualmap.loadtest.harm.draw_case import LEAST_S, RANGES, draw_case, mutated
from dualmap.loadtest.harm.measure import measure
from dualmap.loadtest.traces.workload import WorkRequest

ALL_ALIKE = Case(prompt_spread=0.0, answer_spread=0.0, requests=300)


def requests_of(**values: float) -> list[WorkRequest]:
    return workload_of(replace(ALL_ALIKE, **values)).requests


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_case_survives_json_and_makes_the_same_requests_again(seed: int) -> None:
    case = draw_case(random.Random(seed), {})
    again = case_of(as_json(case))
    assert again == case
    workload = workload_of(case)
    assert workload_of(again) == workload
    assert len(workload.requests) == request_count(case, requests_per_s(case)) <= case.requests
    longest = max(r.prompt_tokens + r.output_tokens for r in workload.requests)
    assert longest <= LONGEST_TOKENS <= case.kv_tokens
    assert all(len(r.blocks) == r.prompt_tokens // 512 for r in workload.requests)


@pytest.mark.parametrize("policy", ["dualmap", "round_robin", "least_loaded"])
def test_two_runs_of_a_case_measure_the_same(policy: str) -> None:
    case = Case(requests=150, gateways=2, slow_share=0.3, turns=3, hot_share=0.5)
    assert measure(case, policy) == measure(case, policy)


def test_another_seed_makes_other_prompts_and_arrivals() -> None:
    first, second = (requests_of(seed=seed) for seed in (1, 2))
    assert {b for r in first for b in r.blocks}.isdisjoint(b for r in second for b in r.blocks)
    assert [r.arrival_s for r in first] != [r.arrival_s for r in second]


@pytest.mark.parametrize(("share", "prefixes"), [(0.0, 1), (0.3, 1), (1.0, 1), (0.5, 5)])
def test_the_share_of_the_requests_begins_with_so_many_hot_prefixes(share: float, prefixes: int) -> None:
    found = requests_of(hot_share=share, hot_prefixes=prefixes, hot_blocks=3, tail_tokens=1100, other_tokens=900)
    hot = [r for r in found if r.prompt_tokens == 3 * 512 + 1100]
    assert all(r.prompt_tokens == 900 for r in found if r not in hot)
    assert len(hot) / len(found) == pytest.approx(share, abs=0.08)
    assert len({r.blocks[:3] for r in hot}) == (prefixes if share else 0)
    assert len({r.blocks[:4] for r in hot}) == len(hot), "tails are their own"


@pytest.mark.parametrize(
    ("values", "prompt_tokens", "answer_tokens"),
    [
        ({"other_tokens": 3000}, 3000, 100),
        ({"answer_tokens": 1}, 1000, 1),
        ({"answer_tokens": 1, "answer_spread": 1.0}, 1000, 1),
        ({"hot_share": 1.0, "hot_blocks": 2, "tail_tokens": 50, "answer_tokens": 2000}, 2 * 512 + 50, 2000),
        ({"hot_share": 1.0, "hot_blocks": 48, "tail_tokens": 8000, "answer_tokens": 9000}, LONGEST_TOKENS - 8192, 8192),
    ],
)
def test_lengths_are_those_asked_for(values: dict[str, float], prompt_tokens: int, answer_tokens: int) -> None:
    assert {(r.prompt_tokens, r.output_tokens) for r in requests_of(**values)} == {(prompt_tokens, answer_tokens)}


def test_a_spread_leaves_the_median_and_stretches_the_rest() -> None:
    lengths = [r.prompt_tokens for r in requests_of(prompt_spread=1.0, requests=1000)]
    assert median(lengths) == pytest.approx(1000, rel=0.1)
    assert sorted(lengths)[900] == pytest.approx(1000 * 3.6, rel=0.2)


@pytest.mark.parametrize("think_s", [0.0, 7.0])
def test_a_turn_repeats_the_prompt_and_the_answer_before_it_and_waits(think_s: float) -> None:
    found = requests_of(turns=4, think_s=think_s, turn_tokens=700)
    later = [r for r in found if r.after is not None]
    assert len(later) > 100
    for request in later:
        before = found[request.after or 0]
        assert request.session == before.session
        assert request.think_s == think_s
        assert request.prompt_tokens == before.prompt_tokens + before.output_tokens + 700
        told = before.blocks + before.answer_blocks
        assert request.blocks[: len(told)] == told
        assert len(told) == (before.prompt_tokens + before.output_tokens) // 512


def test_sessions_are_under_way_when_the_run_begins() -> None:
    found = requests_of(turns=10, think_s=5.0, requests=600)
    times_s = [r.arrival_s for r in found]
    assert times_s[300] / times_s[-1] == pytest.approx(0.5, abs=0.1)
    assert any(r.after is None and r.prompt_tokens > 1000 for r in found[:100])


def test_all_arrive_within_bursts_and_the_mean_rate_stays() -> None:
    case = replace(ALL_ALIKE, requests=1500)
    even, bursts = (workload_of(replace(case, burst_factor=factor, burst_s=2.0)).requests for factor in (1, 4))
    assert all(r.arrival_s % 8.0 <= 2.0 for r in bursts)
    assert any(r.arrival_s % 8.0 > 2.0 for r in even)
    assert bursts[-1].arrival_s == pytest.approx(even[-1].arrival_s, rel=0.15)


@pytest.mark.parametrize(
    ("values", "times"),
    [
        ({"utilisation": 0.25}, 0.5),
        ({"instances": 16}, 2.0),
        ({"speed": 2.0}, 2.0),
        ({"slow_share": 0.5, "slow_factor": 2.0}, 0.75),
        ({"other_tokens": 2000, "answer_tokens": 1}, 1.0),
        ({"hot_share": 1.0, "hot_blocks": 8, "tail_tokens": 1000}, 1.0),
    ],
)
def test_the_rate_is_a_share_of_what_the_fleet_bears(values: dict[str, float], times: float) -> None:
    """Two of them worked out from the model's times: an answer of one token, and a prefix that all caches have."""
    base = replace(ALL_ALIKE, utilisation=0.5)
    if "other_tokens" in values:
        expected = 8 * 0.5 / (2000 * 0.000145 + 2000 * 1000 * 3.8e-9 + 0.010 / 256 + 0.00002 + 2000.5 * 4e-8)
    elif "hot_share" in values:
        context = 8 * 512 + 1000 + 50
        decode_s = 100 * (0.010 / (740_000 / context) + 0.00002 + context * 4e-8)
        expected = 8 * 0.5 / (1000 * 0.000145 + 1000 * (4096 + 500) * 3.8e-9 + decode_s)
    else:
        expected = times * requests_per_s(base)
    assert requests_per_s(replace(base, **values)) == pytest.approx(expected)


def test_the_work_of_a_request_leaves_out_what_is_cached() -> None:
    assert request_s(DEFAULT, [(900, 1000, 1)]) < request_s(DEFAULT, [(0, 1000, 1)]) / 5


def test_a_run_takes_no_more_steps_than_it_may() -> None:
    slow = Case(requests=2000, instances=64, utilisation=0.05, answer_tokens=4000, other_tokens=8000)
    count = request_count(slow, requests_per_s(slow))
    assert 100 <= count < 2000
    assert len(workload_of(slow).requests) == count


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_case_lasts_longer_than_its_first_copies_of_prefixes(seed: int) -> None:
    drawn = draw_case(random.Random(seed), {})
    for case in (drawn, mutated(random.Random(seed), drawn, {})):
        assert case.requests >= 0.99 * LEAST_S * requests_per_s(case)


def test_slow_instances_take_longer_and_gateways_know_if_they_are_told() -> None:
    case = Case(instances=4, slow_share=0.5, slow_factor=2.0, speed=3.0, kv_tokens=200_000, offload_tokens=300_000)
    for told, slow_tokens_per_s, fast_tokens_per_s, weights in (
        (1, 1.5 / 0.000145, 3 / 0.000145, [0.5, 0.5, 1.0, 1.0]),
        (0, 1 / 0.000145, 1 / 0.000145, [None] * 4),
    ):
        specs = cluster_of(replace(case, told=told), "dualmap").instances
        assert [spec.profile.step_base_s for spec in specs] == pytest.approx([0.02 / 3] * 2 + [0.01 / 3] * 2)
        capacities = [spec.capacity for spec in specs if spec.capacity]
        assert [c.weight for c in capacities] == weights
        assert [c.prefill_tokens_per_s for c in capacities] == pytest.approx(
            [slow_tokens_per_s] * 2 + [fast_tokens_per_s] * 2
        )
        assert {(c.kv_tokens, c.cache_tokens) for c in capacities} == {(200_000, 300_000)}
    assert fleet_speed(case) == 3.0


def test_settings_are_the_cases() -> None:
    chosen = cluster_of(Case(gateways=3, slo_s=0.7), "least_loaded")
    assert (chosen.gateways, chosen.digest_s, len(chosen.instances)) == (3, 0.1, 8)
    assert (chosen.config.policy, chosen.config.ttft_slo_s) == ("least_loaded", 0.7)


def test_draws_stay_within_their_ranges_and_keep_what_is_fixed() -> None:
    rng = random.Random(1)
    assert set(RANGES) | {"seed"} == set(NAMES)
    fixed = {"hot_share": 0.3, "requests": 600}
    case = draw_case(rng, fixed)
    for _ in range(300):
        for one in (draw_case(rng, fixed), case := mutated(rng, case, fixed)):
            assert (one.hot_share, one.requests) == (0.3, 600)
            for name, span in RANGES.items():
                value = getattr(one, name)
                known = value in (*span.usual, getattr(DEFAULT, name), 0.3)
                assert known or span.least <= value <= span.most, (name, value)


def test_a_mutation_changes_one_or_two_fields_and_the_seed() -> None:
    rng = random.Random(1)
    case = replace(draw_case(rng, {}), turns=3, hot_share=0.5, burst_factor=2.0, slow_share=0.5, instances=8)
    for _ in range(100):
        other = mutated(rng, case, {})
        differing = {name for name in NAMES if getattr(other, name) != getattr(case, name)}
        # Fields at their defaults may be so because another one made them mean nothing.
        assert "seed" in differing
        assert len(differing & set(changed(other))) <= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "a case is a JSON object"),
        ("[1]", "a case is a JSON object"),
        ('{"hot": 1}', "no field 'hot'; there are seed"),
        ('{"turns": 1.5}', "turns must be a whole number, not 1.5"),
        ('{"turns": true}', "turns must be a whole number, not True"),
        ('{"speed": "fast"}', "speed must be a number"),
        ('{"hot_share": 2}', "hot_share must be from 0 to 1, not 2"),
        ('{"instances": 0}', "instances must be from 1"),
        ('{"kv_tokens": 1000}', "kv_tokens must be from 32768"),
    ],
)
def test_refuses_a_case_that_cannot_be(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        case_of(text)
