"""Instances of two roles, each scaled by its own load, look by look, with the fleet's states told by hand."""

import pytest

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState, PoolPlan
from dualmap.scheduler.fleet.pool_scaler import PoolScaler
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Wanted
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
        self.scaler = PoolScaler(
            [Scaled("", prefixes.get(r, ""), config.of_role(r), automatic=True, role=r) for r in (PREFILL, DECODE)]
        )
        names = {PREFILL: range(prefill), DECODE: range(decode)}
        self.members = {f"sim-{role}-{n}": role for role, numbers in names.items() for n in numbers}
        self.wanted = {
            r: Wanted(tuple(i for i, of in self.members.items() if of is r and prefixes), None) for r in names
        }
        self.loads: dict[str, InstanceLoad] = {}
        self.totals = PoolTotals()
        self.now = 1000.0
        self.drained: set[str] = set()

    def ask(self) -> dict[Role, int]:
        self.wanted = self.scaler.wanted(self.wanted, {}, self.now, self.config)
        return {role: len(wanted.ids) for role, wanted in self.wanted.items()}

    def look(self, seconds: int = 1, second: PoolTotals | None = None) -> dict[Role, int]:
        """How many of each role are wanted then."""
        self.ask()
        for _ in range(seconds):
            self.now += 1.0
            self.totals += second or PoolTotals()
            members = tuple(
                Member(i, 1, Endpoint("127.0.0.1", 80), state=READY, capacity=CAPACITY, role=role)
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
        ({"both": 3}, "no instances of the role both"),
        ({"prefill": 3, "decode": 0}, "from 1 to 1024, not 0"),
    ],
)
def test_what_cannot_be_scaled_so_is_refused_whole(replicas, why):
    pool = Pool()
    pool.look(2)
    with pytest.raises(RefusedError, match=why):
        pool.scaler.scale(replicas)
    assert pool.look() == {PREFILL: 2, DECODE: 2}


def test_the_last_one_of_a_role_is_not_drained():
    pool = Pool(prefill=1)
    pool.look(2)
    with pytest.raises(RefusedError, match="sim-prefill-0 is the last instance that is ready to prefill"):
        pool.scaler.scaler_of("sim-prefill-0").drain("sim-prefill-0", pool.now)
    with pytest.raises(RefusedError, match="no instance 'x'; there are sim-decode-0, sim-decode-1, sim-prefill-0"):
        pool.scaler.scaler_of("x")
