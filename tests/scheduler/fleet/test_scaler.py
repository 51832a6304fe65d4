"""Which instances there should be, look by look, with the fleet's states and the time told by hand."""

import pytest

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState, PoolPlan
from dualmap.scheduler.fleet.scaler import RETRY_S, RefusedError, Scaled, Scaler, Wanted
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_history import LOST_S
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

STARTING, READY, DRAINING, _, _, LOST = MemberState
GATEWAY = GatewayState("g", 9, "", age_s=0.0)


class Pool:
    """A Scaler, and the fleet and `dualmap up` beside it. members: state by id; None: Fleet is away."""

    def __init__(
        self,
        members: dict[str, MemberState],
        told: int | None = 2,
        ids: tuple[str, ...] = ("sim-0", "sim-1"),
        prefix: str = "sim-",
        **scaling,
    ) -> None:
        self.members: dict[str, MemberState] | None = members
        self.roles: dict[str, Role] = {}  # of those that cannot do both
        self.running: dict[str, int] = {}
        self.held = HeldWork()
        self.now = 1000.0
        self.drained: tuple[str, ...] = ()  # who was to be told to drain at the last look
        self.wanted = Wanted(ids, told)
        self.scaler = Scaler(Scaled("", prefix, ScalingConfig(**scaling), automatic=told is None))

    def state(self) -> FleetState | None:
        if self.members is None:
            return None
        members = tuple(
            Member(
                i,
                1,
                Endpoint("127.0.0.1", 80),
                state=state,
                capacity=InstanceCapacity(),
                role=self.roles.get(i, Role.BOTH),
            )
            for i, state in self.members.items()
        )
        loads = {i: InstanceLoad(i, count, 0, waiting_tokens=0, kv_tokens=0) for i, count in self.running.items()}
        return FleetState(1, True, members, gateways=(GATEWAY,), loads=loads, totals={}, held={"": self.held})

    def ask(self, failed: dict[str, str] | None = None) -> tuple[str, ...]:
        """`dualmap up` asks."""
        self.wanted = self.scaler.wanted(self.wanted, failed or {}, self.now)
        return self.wanted.ids

    def look(self, failed: dict[str, str] | None = None, **restart: str) -> tuple[str, ...]:
        """The ids that are wanted after two looks at the fleet, a second apart."""
        self.ask(failed)
        for _ in range(2):
            self.now += 1.0
            self.drained = self.scaler.look(self.state(), self.now, **restart)
        return self.ask()


def both(**scaling) -> Pool:
    pool = Pool({"sim-0": READY, "sim-1": READY}, **scaling)
    pool.look()
    return pool


@pytest.mark.parametrize(
    ("case", "members", "told", "ids", "wanted"),
    [
        ("goes on where the one before was", {"sim-0": READY, "sim-3": READY}, 2, "03", "03"),
        ("starts what is missing under the lowest free numbers", {"sim-1": READY, "sim-2": LOST}, 3, "1", "013"),
        ("counts on those that start", {"sim-0": READY, "sim-1": STARTING}, 2, "01", "01"),
        ("counts on those that are lost for a while", {"sim-0": READY, "sim-1": LOST}, 2, "01", "01"),
        ("lets go of one that is too many once it has drained", {"sim-0": DRAINING, "sim-1": READY}, 1, "01", "1"),
        ("replaces one that drains", {"sim-0": DRAINING, "sim-1": READY}, 2, "01", "12"),
        ("starts the least that plans allow", {"sim-0": READY}, None, "0", "012"),
        ("leaves alone what it did not start", {"sim-0": READY, "other": READY}, 1, "0", "0"),
    ],
)
def test_from_what_there_is_to_what_there_should_be(case, members, told, ids, wanted):
    bounds = {"min_replicas": 3, "max_replicas": 3} if told is None else {}
    pool = Pool(members, told, tuple(f"sim-{i}" for i in ids), **bounds)
    assert pool.look() == tuple(f"sim-{i}" for i in wanted), case
    assert pool.wanted.told == told


def test_before_it_is_known_what_runs_nothing_is_wanted_and_nobody_drained():
    pool = Pool({"sim-0": DRAINING, "sim-1": READY})
    assert pool.scaler.look(pool.state(), pool.now) == ()
    assert not pool.scaler.informed
    assert pool.look() == ("sim-1", "sim-2")
    assert pool.scaler.informed


def test_the_plan_is_told_to_fleet():
    pool = both(told=None, min_replicas=2, max_replicas=5)
    assert pool.scaler.pool_plan == PoolPlan("", 2, 2, most=5)
    pool.scaler.scale(3)
    pool.look()
    assert pool.scaler.pool_plan == PoolPlan("", 3, 3, most=3)


def test_an_order_is_in_the_next_answer_which_a_successor_goes_on_from():
    pool = both()
    assert pool.scaler.scale(4) == "4 instances wanted, 2 now"
    pool.ask()
    assert pool.wanted.told == 4
    pool.scaler = Scaler(Scaled("", "sim-", ScalingConfig(), automatic=False))
    assert pool.look() == ("sim-0", "sim-1", "sim-2", "sim-3")


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        (4, "4 instances wanted (more than max_replicas, 3), 3 now (1 leaving)"),
        (3, "3 instances wanted, 3 now (1 leaving)"),
        (1, "1 instance wanted (fewer than min_replicas, 2), 3 now (1 leaving)"),
    ],
)
def test_a_person_may_say_more_or_fewer_than_load_may_ask_for_and_is_told(replicas, said):
    ids = ("sim-0", "sim-1", "sim-2")
    pool = Pool(dict.fromkeys(ids, READY), told=None, ids=ids, min_replicas=2, max_replicas=3)
    pool.look()
    pool.scaler.drain("sim-0", pool.now)
    assert pool.scaler.scale(replicas) == said
    assert pool.scaler.scale(None) == "between 2 and 3, by load"


def test_who_leaves_is_told_until_it_drains_and_goes_when_it_has_nothing_left():
    pool = both()
    pool.running = {"sim-0": 1}
    pool.scaler.drain("sim-0", pool.now)
    pool.look()
    assert pool.drained == ("sim-0",)
    pool.members["sim-0"] = DRAINING
    assert pool.look() == ("sim-0", "sim-1")
    assert pool.drained == ()
    pool.running = {}
    assert pool.look() == ("sim-1",)
    assert pool.wanted.told == 1


def test_one_that_a_plan_lets_go_is_told_to_drain():
    pool = Pool({"sim-0": READY, "sim-1": READY}, told=None, max_replicas=1)
    pool.look()
    assert pool.drained == ("sim-0",)
    assert pool.scaler.staying() == ["sim-1"]


def test_a_drain_ends_at_its_deadline():
    pool = Pool({"sim-0": DRAINING, "sim-1": READY}, told=1, drain_deadline_s=10.0)
    pool.running = {"sim-0": 1}
    assert pool.look() == ("sim-0", "sim-1")
    pool.now += 10.0
    assert pool.look() == ("sim-1",)


def test_a_drain_that_is_undone_is_not_taken_up_again():
    pool = both()
    pool.scaler.drain("sim-0", pool.now)
    pool.look()
    pool.scaler.keep("sim-0")
    pool.members["sim-0"] = DRAINING  # has not heard yet that it stays
    pool.running = {"sim-0": 1}
    pool.look()
    assert pool.scaler.kept("sim-0") == "sim-0 is given requests again"
    pool.members["sim-0"] = READY
    assert pool.look() == ("sim-0", "sim-1")
    assert pool.drained == ()
    assert pool.wanted.told == 2


def test_a_start_that_failed_is_told_and_tried_again_later():
    pool = Pool({"sim-0": READY, "sim-1": READY}, told=3)
    assert pool.look() == ("sim-0", "sim-1", "sim-2")
    assert pool.look({"sim-2": "there is no GPU left"}) == ("sim-0", "sim-1")
    assert pool.scaler.describe()["note"] == "sim-2 could not be started: there is no GPU left"
    assert pool.look() == ("sim-0", "sim-1")
    pool.now += RETRY_S
    assert pool.look() == ("sim-0", "sim-1", "sim-2")


def test_an_order_to_scale_tries_at_once_what_failed():
    pool = Pool({"sim-0": READY, "sim-1": READY}, told=3)
    pool.look()
    pool.look({"sim-2": "there is no GPU left"})
    pool.scaler.scale(3)
    assert pool.look() == ("sim-0", "sim-1", "sim-2")
    assert pool.scaler.describe()["note"] == ""


def test_a_dry_run_does_nothing_until_a_person_says_so():
    bounds = {"min_replicas": 3, "max_replicas": 4, "dry_run": True}
    pool = Pool({"sim-0": READY}, told=None, ids=("sim-0",), **bounds)
    assert pool.look() == ("sim-0",)
    assert (pool.scaler.plan.start, pool.scaler.dry_run) == (2, True)
    pool.scaler.scale(2)
    assert pool.look() == ("sim-0", "sim-1")


def test_while_fleet_is_away_everything_stays():
    pool = Pool({"sim-0": READY}, told=4, ids=("sim-0",))
    pool.members = None
    assert pool.look() == ("sim-0",)
    assert pool.scaler.describe()["fleet"] == "away"
    pool.members = {"sim-0": READY}
    assert len(pool.look()) == 4


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (lambda s: s.scale(0), "from 1 to 1024, not 0"),
        (lambda s: s.scale(1025), "from 1 to 1024, not 1025"),
        (lambda s: s.scale(None), "there is no `scaling` section"),
        (lambda s: s.drain("sim-7", 0.0), "there is no instance 'sim-7'; there are sim-0, sim-1"),
        (lambda s: s.keep("sim-7"), "there is no instance 'sim-7'; there are sim-0, sim-1"),
        (lambda s: s.drain("sim-0", 0.0), "sim-0 is the last instance that is ready"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(order, said):
    pool = Pool({"sim-0": READY, "sim-1": LOST})
    pool.look()
    with pytest.raises(RefusedError, match=said):
        order(pool.scaler)
    assert pool.look() == ("sim-0", "sim-1")


def test_instances_that_run_on_their_own_are_drained_but_never_stopped():
    pool = Pool({"a": READY, "b": READY}, told=None, ids=(), prefix="")
    pool.look()
    assert "not stopped" in pool.scaler.drain("b", pool.now)
    with pytest.raises(RefusedError, match="run on their own"):
        pool.scaler.scale(2)
    assert pool.look() == ()
    assert pool.drained == ()


def test_the_one_that_stands_in_during_a_restart_is_not_one_too_many():
    pool = Pool({"sim-0": READY}, told=1, ids=("sim-0",))
    pool.look()
    assert pool.scaler.add() == "sim-1"
    assert pool.look(restarting="sim-0", standing_in="sim-1") == ("sim-0", "sim-1")
    pool.members = {"sim-0": DRAINING, "sim-1": READY}
    assert pool.look(restarting="sim-0", standing_in="sim-1") == ("sim-0", "sim-1")
    assert [row["instance_id"] for row in pool.scaler.describe()["instances"] if row["leaving"]] == []


def test_an_instance_that_does_not_come_back_makes_room_for_another():
    pool = Pool({"sim-0": READY, "sim-1": LOST})
    assert pool.look() == ("sim-0", "sim-1")
    pool.now += LOST_S
    assert pool.look() == ("sim-0", "sim-2")


def test_an_instance_that_is_started_again_is_waited_for_and_none_is_started_beside_it():
    pool = Pool({"sim-0": READY, "sim-1": STARTING})
    for _ in range(10):
        assert pool.look() == ("sim-0", "sim-1")
        pool.now += LOST_S
    pool.members = {"sim-0": READY, "sim-1": LOST}
    assert pool.look() == ("sim-0", "sim-1")
    pool.now += LOST_S
    assert pool.look() == ("sim-0", "sim-2")


def test_other_bounds_hold_from_now_on_with_the_history_that_they_ask_for():
    pool = Pool({"sim-0": READY, "sim-1": READY}, told=None, max_replicas=2, up_window_s=2.0, down_window_s=4.0)
    pool.look()
    later = ScalingConfig(max_replicas=2, up_window_s=2.0, down_window_s=20.0, cool_down_s=1.0)
    pool.scaler.wanted(pool.wanted, {}, pool.now, later)
    for _ in range(15):
        pool.look()
    assert pool.drained == ("sim-0",)


def test_a_pool_at_zero_starts_one_for_what_waits_and_goes_back_when_it_is_quiet():
    pool = Pool({}, told=None, ids=(), min_replicas=0, max_replicas=3, scale_to_zero_after_s=20.0)
    assert pool.look() == ()
    pool.held = HeldWork(2, 500)
    assert pool.look() == ("sim-0",)
    assert pool.scaler.pool_plan == PoolPlan("", 1, 0, most=3)
    assert pool.scaler.describe()["held"] == 2
    pool.members = {"sim-0": READY}
    pool.held = HeldWork()
    pool.running = {"sim-0": 1}
    for _ in range(20):
        assert pool.look() == ("sim-0",)
    pool.running = {}
    while pool.drained == ():
        assert pool.look() == ("sim-0",)
    assert pool.drained == ("sim-0",)
    assert pool.now > 1060.0
    assert pool.scaler.pool_plan == PoolPlan("", 0, 0, most=3)
    pool.members = {"sim-0": DRAINING}
    assert pool.look() == ()


def test_one_is_left_however_soon_after_each_other_all_are_told_to_drain():
    pool = Pool({"a": READY, "b": READY}, told=None, ids=(), prefix="")
    pool.look()
    pool.scaler.drain("a", pool.now)
    with pytest.raises(RefusedError, match="b is the last instance that is ready"):
        pool.scaler.drain("b", pool.now)
    pool.scaler.keep("a")
    pool.scaler.drain("b", pool.now)


def test_the_last_one_that_answers_is_not_drained_though_others_prefill():
    pool = Pool({"p": READY, "d": READY}, told=None, ids=(), prefix="")
    pool.roles = {"p": Role.PREFILL, "d": Role.DECODE}
    pool.look()
    with pytest.raises(RefusedError, match="d is the last instance that answers"):
        pool.scaler.drain("d", pool.now)
    pool.scaler.drain("p", pool.now)


def test_what_comes_while_the_last_one_drains_starts_another():
    pool = Pool({"sim-0": DRAINING}, told=None, ids=("sim-0",), min_replicas=0, max_replicas=3)
    pool.running = {"sim-0": 1}
    pool.held = HeldWork(1, 10)
    assert pool.look() == ("sim-0", "sim-1")


def test_after_a_time_in_which_nothing_could_be_seen_the_quiet_is_waited_for_anew():
    pool = Pool({"sim-0": READY}, told=None, ids=("sim-0",), min_replicas=0, scale_to_zero_after_s=20.0)
    pool.look()
    pool.now += 60.0
    pool.look()
    assert pool.drained == ()


def test_plans_for_instances_that_others_start_are_told_and_nothing_is_started_or_drained():
    pool = Pool({}, told=None, ids=(), prefix="", min_replicas=0, max_replicas=4, scale_to_zero_after_s=20.0)
    assert pool.look() == ()
    assert pool.scaler.pool_plan == PoolPlan("", 0, 0, most=4)
    pool.held = HeldWork(1, 10)
    assert pool.look() == ()
    assert pool.scaler.pool_plan == PoolPlan("", 1, 0, most=4)
    pool.members = {"10.0.0.7:8000": READY}
    pool.held = HeldWork()
    pool.look()
    assert pool.scaler.pool_plan.wanted == 1
    for _ in range(12):
        assert pool.look() == ()
        assert pool.drained == ()
    assert pool.scaler.pool_plan == PoolPlan("", 0, 0, most=4)
    described = pool.scaler.describe()
    assert (described["scaled"], described["planned"], described["wanted"]) == (False, True, 0)


def test_servers_that_do_not_answer_are_not_counted_on_for_ever():
    pool = Pool({"a:1": LOST, "b:1": LOST}, told=None, ids=(), prefix="", min_replicas=0, max_replicas=2)
    pool.look()
    pool.now += LOST_S
    pool.look()
    assert pool.scaler.pool_plan.wanted == 0
    pool.held = HeldWork(1, 10)
    pool.look()
    assert pool.scaler.pool_plan.wanted == 1
