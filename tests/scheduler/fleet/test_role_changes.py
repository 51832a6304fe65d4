"""Instances that change their roles: by the plans of both (role_changes.py), or as people order (role_orders.py)."""

from dataclasses import replace
from itertools import pairwise

import pytest

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.member import LONGEST_START_S, MemberState
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.role_changes import FIRST_CALM_S
from dualmap.scheduler.fleet.role_orders import GONE_S
from dualmap.scheduler.fleet.scaler import RETRY_S, RefusedError, WantedPool
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from tests.scheduler.fleet.scaled_pool import DECODE, PREFILL, Pool

CHANGING = ScalingConfig(
    prefill=RoleBounds(1, 1), decode=RoleBounds(1, 1), change_roles=True, up_window_s=5, down_window_s=20, cool_down_s=5
)


def in_a_change() -> Pool:
    """One of three that prefill is to leave, and another to decode beside two."""
    pool = Pool(prefill=3, decode=2, config=CHANGING)
    pool.look(30)
    pool.busy(DECODE, 10)
    pool.look(2)
    return pool


def test_an_instance_of_ours_leaves_its_role_and_another_is_started_in_the_other_one():
    pool = Pool(prefill=3, decode=2, config=CHANGING)
    assert pool.look(30) == {PREFILL: 3, DECODE: 2}, "whatever they have to do, the number stays"
    pool.busy(DECODE, 10)
    assert pool.look(2) == {PREFILL: 3, DECODE: 2}
    assert pool.drained == {"sim-prefill-0"}
    pool.states["sim-prefill-0"] = MemberState.DRAINING
    pool.loads["sim-prefill-0"] = InstanceLoad("sim-prefill-0", 1, 0, waiting_tokens=0, kv_tokens=0)
    assert pool.look(2) == {PREFILL: 3, DECODE: 2}, "a prompt waits there to be fetched"
    del pool.loads["sim-prefill-0"]
    assert pool.look(2) == {PREFILL: 2, DECODE: 3}
    del pool.members["sim-prefill-0"]
    pool.members["sim-decode-2"] = DECODE
    pool.busy(DECODE, 7)
    assert pool.look(60) == {PREFILL: 2, DECODE: 3}, "the load is between what calls for one more and for one less"


@pytest.mark.parametrize("dies_at", ["decided", "draining", "gone", "started"])
def test_a_change_goes_on_where_its_process_has_died(dies_at):
    pool = Pool(prefill=3, decode=2, config=CHANGING)
    pool.look(30)
    pool.busy(DECODE, 10)

    def reach(moment: str) -> None:
        if moment == dies_at:
            pool.begin()

    while pool.wanted.by_role[DECODE].fixed == 2:
        pool.look()
    reach("decided")
    pool.look(2)
    assert pool.drained == {"sim-prefill-0"}
    pool.states["sim-prefill-0"] = MemberState.DRAINING
    pool.loads["sim-prefill-0"] = InstanceLoad("sim-prefill-0", 1, 0, waiting_tokens=0, kv_tokens=0)
    pool.look()
    reach("draining")
    assert pool.look(2) == {PREFILL: 3, DECODE: 2}
    del pool.loads["sim-prefill-0"]
    pool.look()
    del pool.members["sim-prefill-0"]
    reach("gone")
    assert pool.look(2) == {PREFILL: 2, DECODE: 3}
    reach("started")
    pool.look()
    pool.members["sim-decode-2"] = DECODE
    pool.busy(DECODE, 7)
    assert pool.look(60) == {PREFILL: 2, DECODE: 3}
    assert pool.drained == {"sim-prefill-0"}


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ({"prefill": 3}, {PREFILL: 3, DECODE: 2}),
        ({"decode": 2}, {PREFILL: 2, DECODE: 2}),
        ({"decode": 4}, {PREFILL: 2, DECODE: 4}),
    ],
)
def test_a_number_that_a_person_says_ends_a_change_that_is_under_way(said, there):
    pool = in_a_change()
    assert pool.wanted.by_role[DECODE].fixed == 3
    pool.scaler.scale(said)
    pool.look(2)
    del pool.members["sim-prefill-0"]
    assert pool.look(3) == there
    pool.members = {i: role for role, wanted in pool.wanted.by_role.items() for i in wanted.ids}
    assert pool.look(60) == there


def test_one_whose_start_has_failed_is_started_again_though_the_other_role_is_told_a_number():
    pool = Pool(prefill=3, decode=3, config=CHANGING)
    pool.look(2)
    pool.fail("sim-decode-2")
    pool.scaler.scale({"prefill": 1})
    assert pool.look(2) == {PREFILL: 3, DECODE: 2}
    assert pool.drained == {"sim-prefill-0", "sim-prefill-1"}
    pool.members = {"sim-prefill-2": PREFILL, "sim-decode-0": DECODE, "sim-decode-1": DECODE}
    assert pool.look(round(RETRY_S)) == {PREFILL: 1, DECODE: 3}


def test_one_whose_start_has_failed_is_started_again_while_one_of_the_other_role_drains():
    pool = Pool(prefill=3, decode=3, config=CHANGING)
    pool.look(2)
    pool.scaler.scaler_of("sim-prefill-0").drain("sim-prefill-0", pool.now)
    pool.states["sim-prefill-0"] = MemberState.DRAINING
    pool.loads["sim-prefill-0"] = InstanceLoad("sim-prefill-0", 1, 0, waiting_tokens=0, kv_tokens=0)
    pool.look(2)
    pool.members["sim-prefill-3"] = PREFILL
    pool.fail("sim-decode-2")
    assert pool.look(2) == {PREFILL: 4, DECODE: 2}
    assert pool.look(round(RETRY_S)) == {PREFILL: 4, DECODE: 3}


def test_one_whose_start_has_failed_is_started_again_while_one_stands_in_for_another_of_the_other_role():
    pool = Pool(prefill=1, decode=3, config=CHANGING)
    pool.look(2)
    extra = pool.scaler.scalers[PREFILL].add()
    pool.members[extra] = PREFILL
    pool.restart = {"restarting": "sim-prefill-0", "standing_in": extra}
    pool.look(2)
    pool.fail("sim-decode-2")
    assert pool.look(2) == {PREFILL: 2, DECODE: 2}
    assert pool.look(round(RETRY_S)) == {PREFILL: 2, DECODE: 3}


def test_one_whose_start_has_failed_is_started_again_while_a_change_waits_for_the_one_that_leaves():
    pool = in_a_change()
    pool.states["sim-prefill-0"] = MemberState.DRAINING
    pool.loads["sim-prefill-0"] = InstanceLoad("sim-prefill-0", 1, 0, waiting_tokens=0, kv_tokens=0)
    pool.fail("sim-decode-1")
    assert pool.look(2) == {PREFILL: 3, DECODE: 1}
    assert pool.look(round(RETRY_S)) == {PREFILL: 3, DECODE: 2}


def test_a_change_that_is_under_way_ends_where_roles_change_no_more():
    pool = in_a_change()
    pool.config = replace(CHANGING, change_roles=False, prefill=RoleBounds(2, 2), decode=RoleBounds(2, 2))
    pool.look(2)
    assert [wanted.awaited for wanted in pool.wanted.by_role.values()] == [0, 0]
    del pool.members["sim-prefill-0"]
    assert pool.look(30) == {PREFILL: 2, DECODE: 2}


def test_no_change_takes_the_least_of_a_role_and_none_follows_where_a_person_has_said_numbers():
    pool = Pool(prefill=1, decode=2, config=CHANGING)
    pool.look(30)
    pool.busy(DECODE, 10)
    assert pool.look(30) == {PREFILL: 1, DECODE: 2}
    assert pool.drained == set()
    pool = Pool(prefill=2, decode=2, config=CHANGING)
    pool.look(30)
    pool.scaler.scale({"prefill": 2})
    pool.busy(DECODE, 10)
    assert pool.look(30) == {PREFILL: 2, DECODE: 2}
    assert pool.drained == set()
    pool.scaler.scale(None)
    pool.look(2)
    assert pool.drained == {"sim-prefill-0"}


def test_an_instance_that_others_start_is_ordered_into_the_other_role():
    pool = Pool(prefill=3, decode=2, config=CHANGING, ours=False)
    pool.look(30)
    pool.busy(DECODE, 10)
    pool.look(3)
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}
    pool.states["sim-prefill-0"] = MemberState.DRAINING
    pool.look(60)
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}, "one at a time"
    pool.members["sim-prefill-0"] = DECODE
    del pool.states["sim-prefill-0"]
    pool.busy(DECODE, 7)
    pool.look(60)
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}
    assert {plan.role: plan.wanted for plan in pool.scaler.plans} == {PREFILL: 2, DECODE: 3}


def test_the_numbers_that_a_person_said_are_those_that_stay():
    pool = Pool(prefill=2, decode=2, config=CHANGING)
    pool.look(2)
    pool.scaler.scale({"prefill": 3})
    assert pool.look(2) == {PREFILL: 3, DECODE: 2}
    pool.members["sim-prefill-2"] = PREFILL
    pool.scaler.scale(None)
    assert pool.look(30) == {PREFILL: 3, DECODE: 2}
    plan = pool.scaler.scalers[DECODE].plan
    assert plan is not None
    assert (plan.start, plan.drain, "at least" in plan.reason) == (0, (), False), "what its load calls for"


@pytest.mark.parametrize(("prefill", "decode"), [(1, 2), (2, 1), (1, 1)])
def test_fewer_than_the_least_of_both_roles_change_nothing(prefill, decode):
    """Others start them, and some are away."""
    config = replace(CHANGING, prefill=RoleBounds(2, 2), decode=RoleBounds(2, 2))
    pool = Pool(prefill, decode, config, ours=False)
    pool.busy(DECODE, 10)
    pool.look(30)
    assert pool.wanted.roles == {}


def test_who_is_started_in_the_place_of_one_that_is_lost_is_told():
    pool = Pool(prefill=3, decode=2, config=CHANGING)
    pool.look(30)
    pool.states["sim-prefill-0"] = MemberState.LOST
    starts = 0
    for _ in range(90):
        pool.look()
        plan = pool.scaler.scalers[PREFILL].plan
        starts += 0 if plan is None else plan.start
    assert "sim-prefill-3" in pool.wanted.by_role[PREFILL].ids
    assert starts == 1


@pytest.mark.parametrize(
    ("role", "state", "blocks_s"),
    [
        (DECODE, MemberState.LOST, 0),
        (PREFILL, MemberState.LOST, 0),  # before it was drained
        (DECODE, MemberState.DRAINING, 0),  # a person drains it
        (DECODE, MemberState.STARTING, LONGEST_START_S),
        (PREFILL, MemberState.DRAINING, LONGEST_START_S),
        (None, None, GONE_S),
    ],
)
def test_a_change_ends_where_its_instance_is_lost_or_does_not_come_up(role, state, blocks_s):
    pool = Pool(prefill=4, decode=3, config=CHANGING, ours=False)
    pool.look(30)
    pool.scaler.change_role("sim-prefill-3", "decode")
    pool.busy(DECODE, 13)
    pool.members["sim-prefill-3"] = role
    pool.states["sim-prefill-3"] = state
    if role is None:
        del pool.members["sim-prefill-3"]
    pool.look(round(blocks_s))
    assert "sim-prefill-0" not in pool.wanted.roles
    pool.look(90)
    assert pool.wanted.roles["sim-prefill-0"] is DECODE


def test_one_that_starts_for_ever_keeps_its_role_from_nothing_but_for_as_long_as_a_start_may_take():
    pool = Pool(prefill=4, decode=3, config=CHANGING, ours=False)
    pool.states["sim-prefill-3"] = MemberState.STARTING
    pool.busy(DECODE, 13)
    pool.look(round(LONGEST_START_S))
    assert pool.wanted.roles == {}
    pool.look(90)
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}


def test_a_plan_that_is_only_told_changes_nothing():
    pool = Pool(prefill=3, decode=2, config=replace(CHANGING, dry_run=True))
    pool.look(30)
    pool.busy(DECODE, 10)
    assert pool.look(3) == {PREFILL: 3, DECODE: 2}
    plan = pool.scaler.scalers[PREFILL].plan
    assert (plan.drain, plan.reason[:22]) == (("sim-prefill-0",), "one goes to decode: 20")
    assert pool.drained == set()


def test_what_a_person_orders_is_in_the_next_answer_until_the_instance_is_gone_for_long():
    pool = Pool(ours=False)
    pool.look(2)
    said = pool.scaler.change_role("sim-prefill-0", "decode")
    assert said == "sim-prefill-0 drains, and comes again in the role decode"
    del pool.members["sim-prefill-0"]
    pool.look(round(GONE_S))
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}
    pool.look(2)
    assert pool.wanted.roles == {}


def test_of_one_that_has_the_role_already_it_is_said_that_the_role_stays_and_not_that_it_drains():
    pool = Pool(ours=False)
    pool.look(2)
    drains = "sim-prefill-0 drains, and comes again in the role"
    said = pool.scaler.change_role("sim-prefill-0", "prefill")
    assert said == "sim-prefill-0 has the role prefill already, and keeps it"
    pool.look()
    assert pool.wanted.roles == {"sim-prefill-0": PREFILL}
    assert pool.scaler.change_role("sim-prefill-0", "decode") == f"{drains} decode"
    assert pool.scaler.change_role("sim-prefill-0", "prefill") == f"{drains} prefill", "another order is under way"


def test_a_successor_goes_on_with_the_roles_that_were_ordered():
    pool = Pool(ours=False)
    pool.wanted = WantedPool(pool.wanted.by_role, {"sim-prefill-0": DECODE})
    pool.look(2)
    assert pool.wanted.roles == {"sim-prefill-0": DECODE}


@pytest.mark.parametrize(
    ("ours", "instance_id", "why"),
    [
        (True, "sim-decode-0", "was started here, for its role"),
        (False, "sim-decode-0", "sim-decode-0 is the last instance that answers"),
        (False, "x", "no instance 'x'"),
    ],
)
def test_a_role_that_cannot_change_is_refused(ours, instance_id, why):
    pool = Pool(decode=1, ours=ours)
    pool.look(2)
    with pytest.raises(RefusedError, match=why):
        pool.scaler.change_role(instance_id, "prefill")
    assert pool.scaler.wanted(pool.wanted, {}, pool.now).roles == {}


def test_who_is_ordered_to_prefill_answers_no_more():
    pool = Pool(ours=False)
    pool.look(2)
    pool.scaler.change_role("sim-decode-0", "prefill")
    with pytest.raises(RefusedError, match="sim-decode-1 is the last instance that answers"):
        pool.scaler.change_role("sim-decode-1", "prefill")


def test_one_of_ours_that_still_starts_is_not_ordered_either():
    pool = Pool()
    pool.look(2)
    pool.scaler.scale({"prefill": 2, "decode": 3})
    pool.look(2)
    with pytest.raises(RefusedError, match="sim-decode-2 was started here"):
        pool.scaler.change_role("sim-decode-2", "prefill")


def test_a_change_that_had_to_be_taken_back_is_made_again_only_much_later():
    """Each role asks for one more whenever it has two, as if no split were right."""
    pool = Pool(prefill=2, decode=2, config=CHANGING)
    pool.look(30)
    changed_at = []
    for _ in range(3000):
        prefill, decode = (list(wanted.ids) for wanted in pool.wanted.by_role.values())
        pool.members = dict.fromkeys(prefill, PREFILL) | dict.fromkeys(decode, DECODE)
        for instance_id in pool.drained & pool.members.keys():  # it has nothing to do
            del pool.members[instance_id]
            changed_at.append(pool.now)
        pool.drained = set()
        pool.loads = {}
        pool.busy(DECODE, 10 if len(decode) == 2 else 1)
        tokens = 2000 if len(prefill) == 1 else 4
        pool.look(1, PoolTotals(4, tokens, 4, slo_missed=0, legs=4, leg_tokens=tokens))
    gaps = [later - earlier for earlier, later in pairwise(changed_at)]
    assert len(changed_at) > 3
    assert len(changed_at) < 10, "of a hundred windows"
    assert max(gaps) > 2 * FIRST_CALM_S
