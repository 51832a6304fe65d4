"""Instances of two roles, each scaled by its own load, look by look, with the fleet's states told by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState, PoolPlan
from dualmap.scheduler.fleet.pool_scaler import PoolScaler
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.role_changes import FIRST_CALM_S
from dualmap.scheduler.fleet.role_orders import GONE_S, LONGEST_S
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Wanted, WantedPool
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

READY = MemberState.READY
GATEWAY = GatewayState("g", 9, "", age_s=0.0)
PREFILL, DECODE = Role.PREFILL, Role.DECODE
CAPACITY = InstanceCapacity(prefill_tokens_per_s=1000, max_running=10)
BOUNDS = RoleBounds(1, 4)
CONFIG = ScalingConfig(prefill=BOUNDS, decode=BOUNDS, up_window_s=5, down_window_s=20, cool_down_s=5)


class Pool:
    """A PoolScaler, and the fleet and `dualmap up` beside it. second: what is counted in each, while it looks."""

    def __init__(self, prefill: int = 2, decode: int = 2, config: ScalingConfig = CONFIG, **ours: bool) -> None:
        prefixes = {PREFILL: "sim-prefill-", DECODE: "sim-decode-"} if ours.get("ours", True) else {}
        self.config = config
        self.scaled = [
            Scaled("", prefixes.get(r, ""), config.of_role(r), automatic=True, role=r) for r in (PREFILL, DECODE)
        ]
        self.begin()
        names = {PREFILL: range(prefill), DECODE: range(decode)}
        self.members = {f"sim-{role}-{n}": role for role, numbers in names.items() for n in numbers}
        self.wanted = WantedPool(
            {r: Wanted(tuple(i for i, of in self.members.items() if of is r and prefixes), None) for r in names}
        )
        self.states: dict[str, MemberState] = {}  # of those that are not ready
        self.loads: dict[str, InstanceLoad] = {}
        self.totals = PoolTotals()
        self.now = 1000.0
        self.drained: set[str] = set()

    def begin(self) -> None:
        """Also again, as when its process has died."""
        self.scaler = PoolScaler(self.scaled)

    def ask(self) -> dict[Role, int]:
        self.wanted = self.scaler.wanted(self.wanted, {}, self.now, self.config)
        return {role: len(wanted.ids) for role, wanted in self.wanted.by_role.items()}

    def look(self, seconds: int = 1, second: PoolTotals | None = None) -> dict[Role, int]:
        """How many of each role are wanted then."""
        self.ask()
        for _ in range(seconds):
            self.now += 1.0
            self.totals += second or PoolTotals()
            members = tuple(
                Member(i, 1, Endpoint("127.0.0.1", 80), state=self.states.get(i, READY), capacity=CAPACITY, role=role)
                for i, role in self.members.items()
            )
            state = FleetState(1, True, members, gateways=(GATEWAY,), loads=self.loads, totals={"": self.totals})
            self.drained |= set(self.scaler.look(state, self.now))
        return self.ask()

    def busy(self, role: Role, running: int) -> None:
        """So many run on each instance of the role."""
        for i in (i for i, of in self.members.items() if of is role):
            self.loads[i] = InstanceLoad(i, running, 0, waiting_tokens=0, kv_tokens=0)


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
    assert said == "prefill: 3 instances wanted, 2 there; decode: 1 instances wanted, 2 there"
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


def test_the_last_one_of_a_role_is_not_drained():
    pool = Pool(prefill=1)
    pool.look(2)
    with pytest.raises(RefusedError, match="sim-prefill-0 is the last instance that is ready to prefill"):
        pool.scaler.scaler_of("sim-prefill-0").drain("sim-prefill-0", pool.now)
    with pytest.raises(RefusedError, match="no instance 'x'; there are sim-decode-0, sim-decode-1, sim-prefill-0"):
        pool.scaler.scaler_of("x")


CHANGING = ScalingConfig(
    prefill=RoleBounds(1, 1), decode=RoleBounds(1, 1), change_roles=True, up_window_s=5, down_window_s=20, cool_down_s=5
)


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
    pool = Pool(prefill=3, decode=2, config=CHANGING)
    pool.look(30)
    pool.busy(DECODE, 10)
    pool.look(2)
    assert pool.wanted.by_role[DECODE].fixed == 3
    pool.scaler.scale(said)
    pool.look(2)
    del pool.members["sim-prefill-0"]
    assert pool.look(3) == there
    pool.members = {i: role for role, wanted in pool.wanted.by_role.items() for i in wanted.ids}
    assert pool.look(60) == there


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
        (DECODE, MemberState.STARTING, LONGEST_S),
        (PREFILL, MemberState.DRAINING, LONGEST_S),
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


@pytest.mark.parametrize(("used", "least"), [(0.5, 2), (0.2, 1)])
def test_one_that_decodes_leaves_only_where_the_others_would_keep_the_pace(used, least):
    """Two thirds more run on each of two than on each of three: a token takes up to half as long again."""
    pool = Pool(prefill=1, decode=2)
    second = PoolTotals(4, 40, 4, tpot_kept=4, slo_missed=0, legs=4, leg_tokens=40, tpot_used=4 * used)
    pool.look(30, second)
    assert len(pool.drained) == 2 - least


def test_first_tokens_that_prefill_made_late_do_not_hold_those_that_decode():
    totals = PoolTotals(9, 900, 5, slo_missed=4, legs=8, leg_tokens=800, legs_kept=4, legs_missed=3)
    prefill, decode = totals.of_role(PREFILL), totals.of_role(DECODE)
    assert (prefill.arrived, prefill.arrived_work_tokens, prefill.slo_kept, prefill.slo_missed) == (8, 800, 4, 3)
    assert (decode.arrived, decode.arrived_work_tokens, decode.slo_kept, decode.slo_missed) == (1, 100, 5, 1)
    assert totals.of_role(Role.BOTH) == totals


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
