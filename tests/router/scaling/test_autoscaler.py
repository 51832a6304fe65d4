"""The Autoscaler around a Scaler: what waits for what, and what is called and written."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from dualmap.router.local.local_reach import LocalReach
from dualmap.router.scaling import autoscaler as module
from dualmap.router.scaling.autoscaler import Autoscaler
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState, PoolPlan
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Wanted, WantedPool
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

READY, DRAINING = MemberState.READY, MemberState.DRAINING
GATEWAY = GatewayState("g", 9, "", age_s=0.0)


class FakeFleet:
    """Members by id and state; each look at them is counted."""

    def __init__(self, **members: MemberState) -> None:
        self.members = members
        self.running: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []  # of instances' actors
        self.plan: PoolPlan | None = None  # the last one that it was told
        self.deaf: set[str] = set()  # instances whose actors do not answer

    async def state(self, plans: tuple[PoolPlan, ...] = (), events: tuple[FleetEvent, ...] = ()) -> FleetState | None:
        self.plan = plans[0] if plans else None
        members = tuple(
            Member(i.replace("_", "-"), 1, Endpoint("127.0.0.1", 80), state=state, capacity=InstanceCapacity())
            for i, state in self.members.items()
        )
        loads = {i: InstanceLoad(i, count, 0, waiting_tokens=0, kv_tokens=0) for i, count in self.running.items()}
        return FleetState(1, True, members, gateways=(GATEWAY,), loads=loads, totals={})


class Watched:
    """An Autoscaler of the fleet, and the part of `dualmap up` beside it."""

    def __init__(self, autoscaler: Autoscaler, fleet: FakeFleet, wanted: Wanted) -> None:
        self.autoscaler = autoscaler
        self.fleet = fleet
        self.wanted = wanted

    async def ask(self) -> None:
        """`dualmap up` asks."""
        wanted = await self.autoscaler.wanted(WantedPool({Role.BOTH: self.wanted}), {})
        self.wanted = wanted.by_role[Role.BOTH]

    async def look(self) -> tuple[str, ...]:
        """The ids that are wanted after it has looked at the fleet twice."""
        await self.ask()
        for _ in range(2):
            await self.autoscaler.news()
        await self.ask()
        return self.wanted.ids

    async def order(self, order) -> str:
        """`dualmap up` asks while the order is taken."""
        task = asyncio.ensure_future(order)
        while not task.done():
            await self.ask()
            await asyncio.sleep(0.001)
        return task.result()


@pytest.fixture
def watch(monkeypatch, tmp_path):
    """Starts an Autoscaler that looks at the fleet all the time."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.001)

    @asynccontextmanager
    async def start(fleet: FakeFleet, told: int | None = 2, ids=("sim-0", "sim-1"), prefix="sim-", **scaling):
        monkeypatch.setattr(module, "FleetClient", lambda reach: fleet)

        async def call(self, instance_id: str, method: str) -> bool:
            fleet.calls.append((instance_id, method))
            return instance_id not in fleet.deaf

        monkeypatch.setattr(Autoscaler, "call", call)
        scaled = Scaled("", prefix, ScalingConfig(**scaling), automatic=told is None)
        autoscaler = Autoscaler((scaled,), tmp_path / "autoscaler.log", LocalReach(str(tmp_path)))
        try:
            yield Watched(autoscaler, fleet, Wanted(tuple(ids), told))
        finally:
            autoscaler._task.cancel()

    return start


async def test_fleet_is_told_how_many_are_wanted(watch):
    async with watch(FakeFleet(sim_0=READY, sim_1=READY), told=None, min_replicas=2, max_replicas=5) as w:
        await w.look()
        await w.look()
        assert w.fleet.plan == PoolPlan("", 2, 2, most=5)
        await w.order(w.autoscaler.scale(3))
        await w.look()
        await w.look()
        assert w.fleet.plan == PoolPlan("", 3, 3, most=3)


async def test_an_order_is_acknowledged_when_it_is_known_what_to_do_after_a_restart(watch):
    async with watch(FakeFleet(sim_0=READY, sim_1=READY)) as w:
        await w.look()
        order = asyncio.ensure_future(w.autoscaler.scale(4))
        await w.autoscaler.news()
        assert not order.done()
        await w.ask()
        assert (await order).startswith("4 instances wanted")
        assert w.wanted.told == 4


async def test_who_leaves_is_drained_first_and_goes_when_it_has_nothing_left(watch):
    fleet = FakeFleet(sim_0=READY, sim_1=READY)
    fleet.running = {"sim-0": 1}
    async with watch(fleet) as w:
        await w.look()
        await w.order(w.autoscaler.drain("sim-0", False))
        assert ("sim-0", "drain") in fleet.calls
        fleet.members["sim_0"] = DRAINING
        assert await w.look() == ("sim-0", "sim-1")
        fleet.running = {}
        assert await w.look() == ("sim-1",)
        assert w.wanted.told == 1


async def test_one_that_has_not_heard_that_it_leaves_is_called_again(watch):
    fleet = FakeFleet(sim_0=READY, sim_1=READY)
    fleet.deaf = {"sim-0"}
    async with watch(fleet) as w:
        await w.look()
        with pytest.raises(RefusedError, match="sim-0 does not answer; it is tried again"):
            await w.order(w.autoscaler.drain("sim-0", False))
        fleet.calls.clear()
        await w.look()
        assert ("sim-0", "drain") in fleet.calls


async def test_a_drain_that_is_undone_is_not_taken_up_again(watch):
    fleet = FakeFleet(sim_0=READY, sim_1=READY)
    async with watch(fleet) as w:
        await w.look()
        await w.order(w.autoscaler.drain("sim-0", False))
        assert await w.order(w.autoscaler.drain("sim-0", True)) == "sim-0 is given requests again"
        fleet.calls.clear()
        assert await w.look() == ("sim-0", "sim-1")
        assert fleet.calls == []
        assert w.wanted.told == 2


async def test_a_plan_that_does_something_is_written_down(watch, tmp_path):
    bounds = {"min_replicas": 3, "max_replicas": 4, "dry_run": True}
    async with watch(FakeFleet(sim_0=READY), told=None, ids=("sim-0",), **bounds) as w:
        assert await w.look() == ("sim-0",)
        assert "dry run: start 2: 1 instance, at least 3 wanted" in (tmp_path / "autoscaler.log").read_text()
        await w.order(w.autoscaler.scale(2))
        assert await w.look() == ("sim-0", "sim-1")
        last = (await w.autoscaler.describe())[0]["plans"][-1]
        assert (last["replicas"], last["drain"]) == (2, [])


async def test_what_cannot_be_done_is_refused(watch):
    async with watch(FakeFleet(sim_0=READY, sim_1=READY)) as w:
        await w.look()
        for order in (w.autoscaler.scale(0), w.autoscaler.drain("sim-7", False), w.autoscaler.drain("sim-7", True)):
            with pytest.raises(RefusedError):
                await w.order(order)


async def test_an_instance_whose_actor_does_not_answer_is_told(watch):
    fleet = FakeFleet(a=READY, b=READY)
    fleet.deaf = {"a"}
    async with watch(fleet, told=None, ids=(), prefix="") as w:
        await w.look()
        with pytest.raises(RefusedError, match="a does not answer"):
            await w.order(w.autoscaler.drain("a", False))
        for order in (w.autoscaler.scale(2), w.autoscaler.restart()):
            with pytest.raises(RefusedError, match="run on their own"):
                await w.order(order)
        assert "not stopped" in await w.order(w.autoscaler.drain("b", False))


async def test_one_restart_at_a_time(watch):
    async with watch(FakeFleet(sim_0=READY, sim_1=READY)) as w:
        await w.look()
        assert await w.order(w.autoscaler.restart()) == "restarting 2 instances, one after the other"
        with pytest.raises(RefusedError, match="a restart is under way"):
            await w.order(w.autoscaler.restart())
        w.autoscaler._rolling._task.cancel()


async def test_a_restart_that_is_cancelled_lets_nobody_go_and_another_one_can_follow(watch):
    fleet = FakeFleet(sim_0=READY, sim_1=READY)
    fleet.running = {"sim-0": 1}
    async with watch(fleet) as w:
        await w.look()
        with pytest.raises(RefusedError, match="no restart is under way"):
            await w.order(w.autoscaler.cancel_restart())
        await w.order(w.autoscaler.restart())
        fleet.members["sim_0"] = DRAINING
        await w.look()
        said = await w.order(w.autoscaler.cancel_restart())
        assert said == "no further instance is restarted; sim-0 is waited for, until it is ready or lost"
        fleet.running = {}
        await w.look()
        assert fleet.calls == [("sim-0", "drain"), ("sim-0", "undrain")]
        fleet.members["sim_0"] = READY
        for _ in range(3):
            assert await w.look() == ("sim-0", "sim-1")
        assert (await w.autoscaler.describe())[0]["restart"]["error"] == "it was cancelled"
        assert await w.order(w.autoscaler.restart()) == "restarting 2 instances, one after the other"
        w.autoscaler._rolling._task.cancel()


async def test_the_one_that_stands_in_during_a_restart_is_not_one_too_many(watch):
    fleet = FakeFleet(sim_0=READY)
    async with watch(fleet, told=1, ids=("sim-0",)) as w:
        await w.look()
        await w.order(w.autoscaler.restart())
        assert await w.look() == ("sim-0", "sim-1")
        fleet.members["sim_1"] = READY
        assert await w.look() == ("sim-0", "sim-1")
        leaving = [row["instance_id"] for row in (await w.autoscaler.describe())[0]["instances"] if row["leaving"]]
        assert leaving == []
        w.autoscaler._rolling._task.cancel()
