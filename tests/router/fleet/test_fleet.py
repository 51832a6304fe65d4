"""Fleet's epochs, by hand-made reports. Its clock is moved, not waited for."""

import asyncio
from dataclasses import replace

import pytest

from dualmap.instances.member import Member, MemberState
from dualmap.router.fleet import actor as fleet_module
from dualmap.router.fleet.actor import SETTLE_S, SILENCE_S, Fleet
from dualmap.router.fleet.state import GatewayReport, PoolPlan
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.events import InstanceLoad


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fleet_module, "time", clock)
    return clock


def ready(instance_id: str, incarnation: int = 1) -> Member:
    return Member(instance_id, incarnation, "127.0.0.1", 8000, MemberState.READY, InstanceCapacity())


def report(fleet: Fleet, member: Member) -> None:
    asyncio.run(fleet.report(member))


def sync(fleet: Fleet, known_epoch: int = 0, **more):
    return asyncio.run(fleet.sync(GatewayReport("gateway-0", known_epoch, **more))).membership


def pass_time(fleet: Fleet, clock: Clock, seconds: float, *reporting: Member) -> None:
    """As it passes where gateways ask each 100 ms and these instances report."""
    for _ in range(round(seconds / 0.1) + 1):
        clock.now += 0.1
        asyncio.run(fleet.state())
        for member in reporting:
            report(fleet, member)


def test_publishes_nothing_until_every_expected_instance_has_reported(clock):
    fleet = Fleet(("a", "b"))
    report(fleet, ready("a"))
    assert sync(fleet) is None
    report(fleet, ready("b"))
    assert [m.instance_id for m in sync(fleet).members] == ["a", "b"]


def test_does_not_wait_for_a_silent_instance_beyond_the_settling_time(clock):
    fleet = Fleet(("a", "b"))
    report(fleet, ready("a"))
    pass_time(fleet, clock, SETTLE_S, ready("a"))
    assert [m.instance_id for m in sync(fleet).members] == ["a"]


def test_a_gateway_that_knows_the_epoch_is_told_nothing(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    epoch = sync(fleet).epoch
    report(fleet, ready("a"))
    assert sync(fleet, epoch) is None


@pytest.mark.parametrize(
    "changed",
    [
        replace(ready("a"), state=MemberState.DRAINING),
        replace(ready("a"), port=8001),
        replace(ready("a"), incarnation=2),
        replace(ready("a"), model_cards=({"id": "m"},)),
    ],
)
def test_each_change_makes_a_higher_epoch(clock, changed):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    before = sync(fleet)
    report(fleet, changed)
    after = sync(fleet, before.epoch)
    assert after.epoch > before.epoch
    assert after.members == (changed,)


def test_a_report_of_an_older_incarnation_is_dropped(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a", incarnation=2))
    report(fleet, replace(ready("a", incarnation=1), state=MemberState.LOST))
    assert sync(fleet).members == (ready("a", incarnation=2),)


def test_a_silent_instance_is_lost_and_comes_back_with_its_next_report(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    epoch = sync(fleet).epoch
    pass_time(fleet, clock, SILENCE_S)
    lost = sync(fleet, epoch)
    assert lost.members[0].state is MemberState.LOST
    report(fleet, ready("a"))
    assert sync(fleet, lost.epoch).members == (ready("a"),)


def test_a_restarted_fleet_publishes_an_epoch_above_any_a_gateway_knows(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    assert sync(fleet, known_epoch=41).epoch > 41


def test_nobody_is_lost_because_fleet_itself_stood_still(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    epoch = sync(fleet).epoch
    clock.now += 10 * SILENCE_S
    assert sync(fleet, epoch) is None
    pass_time(fleet, clock, SILENCE_S)
    assert sync(fleet, epoch).members[0].state is MemberState.LOST


def test_a_restarted_fleet_waits_for_every_instance_that_a_gateway_has_books_of(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    loads = (InstanceLoad("a", 0, 0, 0, 0), InstanceLoad("b", 1, 0, 0, 0))
    assert sync(fleet, known_epoch=41, loads=loads) is None
    report(fleet, ready("b"))
    assert [m.instance_id for m in sync(fleet, known_epoch=41, loads=loads).members] == ["a", "b"]


def test_an_instance_that_is_forgotten_is_no_member_whatever_it_still_says(clock):
    fleet = Fleet(("a", "b"))
    report(fleet, ready("a"))
    report(fleet, ready("b"))
    epoch = sync(fleet).epoch
    assert asyncio.run(fleet.forget("b"))
    report(fleet, replace(ready("b"), state=MemberState.LOST))
    after = sync(fleet, epoch)
    assert [m.instance_id for m in after.members] == ["a"]
    report(fleet, ready("b", incarnation=2))
    assert [m.instance_id for m in sync(fleet, after.epoch).members] == ["a", "b"]


def test_plans_reach_the_gateways(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    plan = PoolPlan("code", 3, 1, 4)
    asyncio.run(fleet.state(replace(plan, wanted=2)))
    asyncio.run(fleet.state(plan))
    assert asyncio.run(fleet.sync(GatewayReport("gateway-0"))).plans == (plan,)


def state_with(fleet: Fleet, *reports: GatewayReport):
    for each in reports:
        asyncio.run(fleet.sync(each))
    return asyncio.run(fleet.state())


def test_an_instance_is_drained_once_all_gateways_know_it_and_none_has_a_request_there(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    pass_time(fleet, clock, SETTLE_S, ready("a"))
    epoch = sync(fleet).epoch
    report(fleet, replace(ready("a"), state=MemberState.DRAINING))
    first, second = GatewayReport("gateway-0", epoch + 1), GatewayReport("gateway-1", epoch + 1)
    busy = (InstanceLoad("a", 1, 0, 0, 0),)
    assert not state_with(fleet, replace(first, epoch=epoch), second).is_drained("a")
    assert not state_with(fleet, first, replace(second, loads=busy)).is_drained("a")
    assert state_with(fleet, first, second).is_drained("a")


def test_nothing_counts_as_drained_before_gateways_had_the_time_to_say_what_they_have(clock):
    fleet = Fleet(("a",))
    report(fleet, replace(ready("a"), state=MemberState.DRAINING))
    assert not asyncio.run(fleet.state()).is_drained("a")
    assert not state_with(fleet, GatewayReport("gateway-0", 1)).is_drained("a")
    pass_time(fleet, clock, SETTLE_S, replace(ready("a"), state=MemberState.DRAINING))
    assert state_with(fleet, GatewayReport("gateway-0", asyncio.run(fleet.state()).epoch)).is_drained("a")
