"""Fleet's epochs, by hand-made reports. Its clock is moved, not waited for."""

import asyncio
from dataclasses import replace

import pytest

from router import fleet as fleet_module
from router.fleet import SETTLE_S, SILENCE_S, Fleet
from router.membership import Member, MemberState
from scheduler import InstanceCapacity


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


def sync(fleet: Fleet, known_epoch: int = 0):
    membership, _ = asyncio.run(fleet.sync(known_epoch))
    return membership


def test_publishes_nothing_until_every_expected_instance_has_reported(clock):
    fleet = Fleet(("a", "b"))
    report(fleet, ready("a"))
    assert sync(fleet) is None
    report(fleet, ready("b"))
    assert [m.instance_id for m in sync(fleet).members] == ["a", "b"]


def test_does_not_wait_for_a_silent_instance_beyond_the_settling_time(clock):
    fleet = Fleet(("a", "b"))
    report(fleet, ready("a"))
    clock.now += SETTLE_S + 0.1
    report(fleet, ready("a"))
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
    clock.now += SILENCE_S + 0.1
    lost = sync(fleet, epoch)
    assert lost.members[0].state is MemberState.LOST
    report(fleet, ready("a"))
    assert sync(fleet, lost.epoch).members == (ready("a"),)


def test_a_restarted_fleet_publishes_an_epoch_above_any_a_gateway_knows(clock):
    fleet = Fleet(("a",))
    report(fleet, ready("a"))
    assert sync(fleet, known_epoch=41).epoch > 41
