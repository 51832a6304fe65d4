"""Fleet in virtual time: who is there reaches the gateways as late as it does live."""

import pytest

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.fleet import VirtualFleet
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.events import InstanceDraining, InstanceJoined, InstanceLost
from dualmap.scheduler.fleet.endpoint import NOWHERE
from dualmap.scheduler.fleet.fleet_core import SETTLE_S, SILENCE_S
from dualmap.scheduler.fleet.member import Member, MemberState

CONFIG = SchedulerConfig()
STARTING, READY, DRAINING, _, _, LOST = MemberState


def member(instance_id: str, state: MemberState = READY, incarnation: int = 1) -> Member:
    return Member(instance_id, incarnation, NOWHERE, state=state, capacity=InstanceCapacity())


class Heard:
    """A fleet of these gateways and of instances a and b, and what the gateways heard of instances, and when."""

    def __init__(self, gateways: int, changes: bool = True) -> None:
        self.clock = VirtualClock()
        self.cores = {number: Scheduler(CONFIG) for number in range(gateways)}
        self.events: list[tuple[float, int, object]] = []
        self.fleet = VirtualFleet(self.clock, self.cores, self.tell, config=CONFIG, interval_s=0.1, answer_s=0.02)
        for instance_id in ("a", "b"):
            self.fleet.report(member(instance_id))
        self.fleet.begin(changes)

    def tell(self, number: int, event) -> None:
        self.cores[number].handle(event, self.clock.now)
        if isinstance(event, InstanceJoined | InstanceDraining | InstanceLost):
            self.events.append((round(self.clock.now, 3), number, event))

    def run_until(self, until_s: float) -> None:
        self.clock.at(until_s, lambda: None)
        while self.clock.now < until_s:
            self.clock.step()


def test_all_gateways_know_at_the_start_who_is_there():
    heard = Heard(2, changes=False)
    assert [(at, number, event.instance_id) for at, number, event in heard.events] == [
        (0.0, 0, "a"),
        (0.0, 0, "b"),
        (0.0, 1, "a"),
        (0.0, 1, "b"),
    ]


def test_a_change_reaches_each_gateway_with_its_next_answer():
    heard = Heard(2)
    heard.events.clear()
    heard.clock.at(0.26, heard.fleet.report, member("a", DRAINING))
    heard.clock.at(0.56, heard.fleet.report, member("b", LOST))
    heard.clock.at(0.86, heard.fleet.forget, "a")
    heard.run_until(1.2)
    assert heard.events == [
        (0.32, 0, InstanceDraining("a", 1)),
        (0.37, 1, InstanceDraining("a", 1)),
        (0.62, 0, InstanceLost("b", 1, "lost")),
        (0.67, 1, InstanceLost("b", 1, "lost")),
        (0.92, 0, InstanceLost("a", 1, "removed")),
        (0.97, 1, InstanceLost("a", 1, "removed")),
    ]


def test_instances_are_heard_all_the_time_and_settle():
    heard = Heard(1)
    heard.run_until(SETTLE_S + SILENCE_S + 1)
    assert heard.fleet.state().settled
    assert [m.state for m in heard.fleet.state().members] == [READY, READY]


def test_a_late_word_of_an_older_incarnation_changes_nothing():
    heard = Heard(1)
    heard.fleet.report(member("a", incarnation=2))
    heard.fleet.report(member("a", LOST))
    heard.run_until(2 * SILENCE_S)
    assert [m.state for m in heard.fleet.state().members] == [READY, READY]


def test_a_gateway_alone_in_a_fleet_that_stays_has_nothing_to_do():
    heard = Heard(1, changes=False)
    with pytest.raises(IndexError):  # nothing is due
        heard.clock.step()
