"""What a gateway shows of an instance's state, and what it tells of ready ones; the time is told by hand."""

from dataclasses import replace

import pytest

from dualmap.router.observe.instance_states import CALM_S, InstanceStates
from dualmap.scheduler import FailureCause, InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.events import FirstToken, InstanceJoined, LoadReported, RequestArrived, RequestFailed, Tick
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.instance.reported_load import STALE_AFTER_S

UNIX_S = 1_000_000.0


class Shown:
    """Instances a and b of a pool, and what is told of them."""

    def __init__(self) -> None:
        self.now = 10.0
        self.scheduler = Scheduler(SchedulerConfig())
        self._events: list[FleetEvent] = []
        unix = lambda: self.now + UNIX_S  # noqa: E731
        self.states = InstanceStates({"": self.scheduler}, lambda: self.now, "g", self._events.append, unix)
        self._epoch = 0
        for instance_id in ("a", "b"):
            self.handle(InstanceJoined(instance_id, 1, InstanceCapacity()))

    def handle(self, event) -> None:
        self.scheduler.handle(event, self.now)

    def apply(self, *members: Member) -> None:
        self._epoch += 1
        self.states.apply_membership(Membership(self._epoch, members))

    def a(self) -> tuple[str, str, float]:
        state = self.states.describe()["a"]
        assert state["for_s"] == pytest.approx(self.now + UNIX_S - state["since"])
        return state["condition"] or state["state"], state["reason"], state["since"] - UNIX_S

    def look_suspect(self) -> None:
        self.scheduler.instances["a"].suspect_until = self.now + 1.0
        self.states.look()
        self.now += 1.5

    def told(self) -> list[tuple[str, str]]:
        """Of a, what and why, since the last call."""
        events = [
            (event.kind.value.removeprefix("instance_"), event.reason) for event in self._events if is_of_a(event)
        ]
        self._events.clear()
        return events


def is_of_a(event: FleetEvent) -> bool:
    return (event.instance_id, event.gateway) == ("a", "g")


@pytest.fixture
def shown() -> Shown:
    shown = Shown()
    shown.apply(member("a"), member("b"))
    return shown


def member(instance_id: str, state: MemberState = MemberState.READY, reason: str = "", at: float = 10.0) -> Member:
    about = Member(instance_id, 1, Endpoint("h", 1), state=state, capacity=InstanceCapacity(), reason=reason)
    return replace(about, since=at + UNIX_S)


def test_a_state_is_shown_as_fleet_tells_it_and_not_told_once_more(shown):
    lost = member("a", MemberState.LOST, "connection refused", at=12.0)
    shown.now = 13.0
    shown.apply(lost, member("b"))
    shown.apply(replace(lost, reason="no answer within 2 s"), member("b"))
    assert shown.a() == ("lost", "no answer within 2 s", 12.0)
    shown.apply(member("b"))
    assert shown.told() == []


def test_one_that_refused_a_request_is_suspect_for_a_moment(shown):
    shown.handle(RequestArrived(Request("r", (), 100)))
    dispatched = next(i for i, view in shown.scheduler.instances.items() if view.running_count)
    shown.handle(RequestFailed("r", 1, 0, cause=FailureCause.CONNECT))
    shown.now += 0.5
    state = shown.states.describe()[dispatched]
    assert (state["state"], state["condition"]) == ("ready", "suspect")
    shown.now += SchedulerConfig().suspect_s
    shown.handle(Tick())
    state = shown.states.describe()[dispatched]
    assert (state["state"], state["condition"], state["reason"], state["for_s"]) == ("ready", "", "", 0.0)


def test_one_whose_metrics_fall_silent_is_slow(shown):
    shown.handle(LoadReported("a", 1, 0, kv_used=0.1))
    shown.now += STALE_AFTER_S + 1
    shown.handle(Tick())
    shown.scheduler.instances["a"].look_around(1.0, shown.now)
    assert shown.a() == ("slow", "neither its metrics nor its answers have said anything for 6 s", shown.now)
    assert shown.told() == [("slow", "neither its metrics nor its answers have said anything for 6 s")]


def test_one_that_computes_far_more_slowly_than_the_others_is_slow(shown):
    for number in range(40):
        shown.handle(RequestArrived(Request(str(number), (), 10_000, only=("a",))))
        shown.now += 10_000 / InstanceCapacity().prefill_tokens_per_s * 5
        shown.handle(FirstToken(str(number), 1))
    name, reason, _ = shown.a()
    assert name == "slow"
    assert "times as long for a prompt as most others" in reason
    assert shown.states.describe()["b"]["condition"] == ""


def test_whether_a_ready_instance_does_well_is_told_now_and_then_only(shown):
    for _ in range(4):
        shown.look_suspect()
        shown.states.look()
    assert [kind for kind, _ in shown.told()] == ["suspect"]
    shown.now += CALM_S
    shown.states.look()
    assert shown.told() == [("well", "")]
    shown.look_suspect()
    assert shown.told() == [], "it has just been said to do well"
    shown.now += CALM_S
    shown.look_suspect()
    shown.apply(member("a", MemberState.LOST), member("b"))
    shown.apply(member("a"), member("b"))
    assert [kind for kind, _ in shown.told()] == ["suspect"]


def test_an_instance_of_which_fleet_does_not_know_since_when_is_counted_from_the_first_look(shown):
    unknown = replace(member("a", MemberState.LOST), since=0.0)
    shown.now = 20.0
    shown.apply(unknown)
    shown.now = 25.0
    assert shown.a() == ("lost", "", 20.0)
