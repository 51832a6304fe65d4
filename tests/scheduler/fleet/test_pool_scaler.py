"""Instances of two roles, each scaled by its own load."""

import pytest

from dualmap.scheduler.fleet.messages import PoolPlan
from dualmap.scheduler.fleet.pool_scaler import PoolScaler
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Wanted, WantedPool
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.role import Role
from tests.scheduler.fleet.scaled_pool import BOUNDS, CONFIG, DECODE, PREFILL, Pool

LONG_PROMPTS = PoolTotals(4, 2400, 4, slo_missed=0, legs=3, leg_tokens=2300)
SHORT_PROMPTS = PoolTotals(4, 2400, 4, slo_missed=0, legs=1, leg_tokens=100)


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (LONG_PROMPTS, {PREFILL: 3, DECODE: 2}),
        (SHORT_PROMPTS, {PREFILL: 2, DECODE: 3}),  # served whole by those that decode
    ],
)
def test_who_prefills_follows_the_work_of_prefill_legs_and_who_decodes_that_of_the_rest(second, wanted):
    pool = Pool()
    assert pool.look(10, second) == wanted
    assert {plan.role: plan.wanted for plan in pool.scaler.plans} == wanted


def test_running_requests_ask_for_more_that_decode_and_prompts_that_wait_to_be_fetched_for_nothing():
    pool = Pool()
    pool.busy(PREFILL, 10)
    assert pool.look(10) == {PREFILL: 2, DECODE: 2}
    pool.busy(DECODE, 10)
    assert pool.look(10) == {PREFILL: 2, DECODE: 3}


def test_slow_answers_ask_for_more_that_decode():
    pool = Pool()
    slow = PoolTotals(4, 400, 4, tpot_kept=2, tpot_missed=2, slo_missed=0, legs=4, leg_tokens=400)
    assert pool.look(10, slow) == {PREFILL: 2, DECODE: 3}


def test_each_role_shrinks_to_its_own_least():
    pool = Pool(config=ScalingConfig(prefill=BOUNDS, decode=RoleBounds(2, 2), down_window_s=20, cool_down_s=5))
    pool.look(30)
    assert pool.drained == {"sim-prefill-0"}


def test_who_does_both_is_counted_among_those_that_decode():
    pool = Pool(prefill=1, decode=1, ours=False)
    pool.members["other"] = Role.BOTH
    pool.look(2)
    described = {row["role"]: [i["instance_id"] for i in row["instances"]] for row in pool.scaler.describe()}
    assert described == {"prefill": ["sim-prefill-0"], "decode": ["other", "sim-decode-0"]}
    assert pool.scaler.plans == (PoolPlan("", 1, 1, most=4, role=PREFILL), PoolPlan("", 2, 1, most=4, role=DECODE))


def test_people_say_a_number_for_each_role():
    pool = Pool()
    pool.look(2)
    said = pool.scaler.scale({"prefill": 3, "decode": 1})
    assert said == "prefill: 3 instances wanted, 2 now; decode: 1 instance wanted, 2 now"
    assert pool.look() == {PREFILL: 3, DECODE: 2}
    assert pool.drained == {"sim-decode-0"}
    assert pool.scaler.scale(None) == "prefill: between 1 and 4, by load; decode: between 1 and 4, by load"


@pytest.mark.parametrize(
    ("replicas", "why"),
    [
        (3, "each role has its own number here: prefill=N"),
        ({"both": 3}, "no role 'both': each role has its own number here: prefill=N"),
        ({"prefil": 3, "decode": 1}, "no role 'prefil': each role has its own number here: prefill=N"),
        ({"prefill": 3, "decode": 0}, "from 1 to 1024, not 0"),
    ],
)
def test_what_cannot_be_scaled_so_is_refused_whole(replicas, why):
    pool = Pool()
    pool.look(2)
    with pytest.raises(RefusedError, match=why):
        pool.scaler.scale(replicas)
    assert pool.look() == {PREFILL: 2, DECODE: 2}


@pytest.mark.parametrize(("prefix", "why"), [("sim-", "say N alone"), ("", "run on their own")])
def test_a_number_for_a_role_is_refused_where_roles_are_not_scaled(prefix, why):
    scaler = PoolScaler([Scaled("", prefix, CONFIG, automatic=False)])
    with pytest.raises(RefusedError, match=why):
        scaler.scale({PREFILL: 2})


def test_the_role_of_one_of_ours_is_not_changed_where_roles_are_not_scaled():
    pool = Pool()
    scaler = PoolScaler([Scaled("", "sim-", CONFIG, automatic=False)])
    scaler.wanted(WantedPool({Role.BOTH: Wanted(("sim-0",), None)}), {}, pool.now)
    with pytest.raises(RefusedError, match="sim-0 was started here: only an instance that others start is given"):
        scaler.change_role("sim-0", "prefill")


def test_the_last_one_of_a_role_is_not_drained():
    pool = Pool(prefill=1)
    pool.look(2)
    with pytest.raises(RefusedError, match="sim-prefill-0 is the last instance that is ready to prefill"):
        pool.scaler.scaler_of("sim-prefill-0").drain("sim-prefill-0", pool.now)
    with pytest.raises(RefusedError, match="no instance 'x'; there are sim-decode-0, sim-decode-1, sim-prefill-0"):
        pool.scaler.scaler_of("x")


@pytest.mark.parametrize(("used", "least"), [(0.5, 2), (0.2, 1)])
def test_one_that_decodes_leaves_only_where_the_others_would_keep_the_pace(used, least):
    """Two thirds more run on each of two than on each of three: a token takes up to half as long again."""
    pool = Pool(prefill=1, decode=2)
    second = PoolTotals(4, 40, 4, tpot_kept=4, slo_missed=0, legs=4, leg_tokens=40, tpot_used=4 * used)
    pool.look(30, second)
    assert len(pool.drained) == 2 - least


def test_first_tokens_that_prefill_made_late_do_not_hold_those_that_decode():
    legs = {"legs": 8, "leg_tokens": 800, "legs_kept": 4, "legs_missed": 4, "missed_by_legs": 3}
    totals = PoolTotals(9, 900, 5, slo_missed=4, **legs)
    prefill, decode = totals.of_role(PREFILL), totals.of_role(DECODE)
    assert (prefill.arrived, prefill.arrived_work_tokens, prefill.slo_kept, prefill.slo_missed) == (8, 800, 4, 4)
    assert (decode.arrived, decode.arrived_work_tokens, decode.slo_kept, decode.slo_missed) == (1, 100, 5, 1)
    assert totals.of_role(Role.BOTH) == totals
