"""preble_e2: exploit a long match, explore by cost otherwise."""

import pytest

from dualmap.scheduler.policies import preble_e2
from dualmap.scheduler.policies.preble_e2 import WINDOW_S


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def load_s(core, instance_id: str) -> float:
    return core.core.policy._sides[instance_id].load_s


def test_a_match_of_more_than_half_is_exploited_whatever_the_load(script):
    core = script("a", "b", policy="preble_e2")
    warm = where(core.arrive("r0", 1536, blocks=(1, 2, 3)))
    for i in range(1, 20):
        assert where(core.arrive(f"r{i}", 2560, blocks=(1, 2, 3, 100 + i, 200 + i))) == warm


def test_a_match_of_half_is_explored_by_load(script):
    core = script("a", "b", policy="preble_e2")
    warm = where(core.arrive("r0", 1024, blocks=(1, 2)))
    core.arrive("r1", 20_000, blocks=tuple(range(50, 90)))
    cold = core.attempt("r1").instance_id
    assert cold != warm
    assert where(core.arrive("r2", 2048, blocks=(1, 2, 3, 4))) == warm  # less load, less to compute
    core.arrive("r3", 40_000, blocks=tuple(range(150, 230)))
    assert core.attempt("r3").instance_id == warm
    assert where(core.arrive("r4", 4096, blocks=(1, 2, *range(300, 306)))) == cold


def test_recomputation_is_weighed_against_load(script):
    core = script("a", "b", policy="preble_e2")
    warm = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    # Load there: 2.05 s and a short answer; elsewhere none, but 4 more blocks to compute: 2.05 s.
    assert where(core.arrive("r1", 5120, blocks=(1, 2, 3, 4, *range(10, 16)))) != warm
    core = script("a", "b", policy="preble_e2")
    warm = where(core.arrive("r0", 1024, blocks=(1, 2)))
    core.arrive("r1", 900, blocks=(60, 61))
    assert core.attempt("r1").instance_id != warm
    assert where(core.arrive("r2", 2048, blocks=(1, 2, 3, 4))) == warm  # 0.12 s more load, 1.02 s less to compute


def test_what_would_be_evicted_is_weighed_by_how_often_it_was_used(script):
    core = script("a", "b", policy="preble_e2", capacity={"kv_tokens": 4 * 512})
    used = where(core.arrive("r0", 2048, blocks=(1, 2, 3, 4)))
    unused = where(core.arrive("r1", 2048, blocks=(11, 12, 13, 14)))
    for i in range(3):
        core.arrive(f"u{i}", 1, blocks=(1, 2, 3, 4))
    for i in range(3):
        core.arrive(f"v{i}", 1)  # no blocks: only load
    policy = core.core.policy
    sides = policy._sides
    sides[used].load_s = sides[unused].load_s
    assert policy._explore_s(sides[used], (91, 92)) == pytest.approx((2 + 2) * 0.512)  # both by all requests there
    assert policy._explore_s(sides[unused], (91, 92)) < policy._explore_s(sides[used], (91, 92))


def test_load_is_that_of_the_last_three_minutes(script):
    core = script("a", "b", policy="preble_e2")
    instance_id = where(core.arrive("r0", 2000, blocks=(1, 2, 3, 4), max_output_tokens=100))
    assert load_s(core, instance_id) == pytest.approx(2.1)
    core.now += WINDOW_S + 1
    core.arrive("r1", 10, blocks=(9,))
    assert load_s(core, instance_id) + load_s(core, "b" if instance_id == "a" else "a") < 0.1


def test_exploiting_requests_leave_the_most_loaded_instance_beyond_the_threshold(script, monkeypatch):
    monkeypatch.setattr(preble_e2, "REBALANCE_AFTER", 5)
    core = script("a", "b", policy="preble_e2")
    warm = where(core.arrive("r0", 1024, blocks=(1, 2)))
    placed = [where(core.arrive(f"r{i}", 1024, blocks=(1, 2))) for i in range(1, 11)]
    assert placed[:9] == [warm] * 9  # ten requests are seen first
    assert placed[9] != warm
    # Then both hold the prefix, and the less loaded of them is chosen.
    assert {where(core.arrive(f"s{i}", 1024, blocks=(1, 2))) for i in range(40)} == {"a", "b"}


def test_a_prefix_whose_waits_double_is_copied(script):
    core = script("a", "b", policy="preble_e2")
    core.now = 900.0  # the start of a half window
    warm = where(core.arrive("r0", 1024, blocks=(1, 2)))
    core.first_token("r0")
    for i in range(1, 4):
        assert where(core.arrive(f"r{i}", 1024, blocks=(1, 2))) == warm
        core.first_token(f"r{i}")
    core.now += WINDOW_S / 2
    for i in range(4, 7):
        core.arrive(f"r{i}", 1200, blocks=(1, 2, 100 + i))
    assert {core.attempt(f"r{i}").instance_id for i in (4, 5, 6)} == {"a", "b"}
