"""What Fleet tells people: hand-made reports of instances and gateways in, events out; the time is told by hand."""

from dataclasses import replace

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.event_board import MOST_EVENTS, EventBoard
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.fleet_event import ABOUT, EventKind, FleetEvent
from dualmap.scheduler.fleet.fleet_teller import CARRIED_WITHIN_S
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.load_board import SILENT_S
from dualmap.scheduler.fleet.member import Member, MemberState, ServerEnd
from dualmap.scheduler.fleet.member_events import CALM_S
from dualmap.scheduler.fleet.messages import CarriedRequests, GatewayReport

UNIX_S = 1_000_000.0
READY, DRAINING, STARTING = MemberState.READY, MemberState.DRAINING, MemberState.STARTING
LOST, STOPPING, STOPPED = MemberState.LOST, MemberState.STOPPING, MemberState.STOPPED


class Told:
    """A Fleet, gateways that call it each 100 ms, and what it says of each instance in sentences."""

    def __init__(self, *instance_ids: str, gateways: tuple[str, ...] = ("gateway-0",), number: int = 1) -> None:
        self.now = 10.0
        self.core = FleetCore((), {"": SchedulerConfig()}, self.now, number, unix_now=self.now + UNIX_S)
        self.links = {name: GatewayLink(name) for name in gateways}
        self.members: dict[str, Member] = {}
        self.number = 0
        for instance_id in instance_ids:
            self.report(instance_id, READY)
        self.pass_time(1.5)
        self.said()

    def report(self, instance_id: str, state: MemberState, reason: str = "", **more: object) -> None:
        known = self.members.get(instance_id) or member(instance_id)
        since = known.since if known.state is state and known.since else self.now + UNIX_S
        incarnation = known.incarnation
        if state is READY and known.state in (STARTING, LOST):
            incarnation += 1
        values = {"incarnation": incarnation, "since": since, **more}
        self.members[instance_id] = now = replace(known, state=state, reason=reason, **values)
        self.core.report(now, None, self.now)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            for known in self.members.values():
                self.core.report(known, None, self.now)
            for link in self.links.values():
                link.hear(self.core.sync(link.report((), {}), self.now))

    def events(self) -> list[FleetEvent]:
        """Since the last call."""
        news = self.core.events(self.number)
        if news is None:
            return []
        self.number = news.number
        return list(news.events)

    def said(self) -> list[str]:
        return [e.sentence() for e in self.events() if e.kind is not EventKind.EPOCH_MOVED]

    def after(self, seconds: float, **states: MemberState) -> list[str]:
        """What is said within a second of reports that come after so many seconds."""
        self.pass_time(seconds)
        for instance_id, state in states.items():
            self.report(instance_id, state, "" if state in (READY, DRAINING) else "why")
        self.pass_time(0.5)
        return self.said()


def member(instance_id: str) -> Member:
    return Member(instance_id, 1, Endpoint("h", 1), state=STOPPED, capacity=InstanceCapacity(), pid=7)


def event(number: int, kind: EventKind = EventKind.INSTANCE_SLOW) -> FleetEvent:
    return FleetEvent(at=float(number), kind=kind, instance_id=str(number), gateway="gateway-0")


NOTHING = "it carried no request"


def test_what_is_there_at_first_has_joined_and_so_have_gateways_and_the_epoch_moves():
    told = Told(gateways=("gateway-0", "gateway-1"))
    told.report("a", READY)
    told.report("b", LOST, "connection refused")
    told.pass_time(3.0)
    kinds = [(e.kind, e.instance_id or e.gateway) for e in told.events()]
    assert (EventKind.INSTANCE_JOINED, "a") in kinds
    assert (EventKind.INSTANCE_LOST, "b") in kinds
    told = Told("a", "b", gateways=("gateway-0", "gateway-1"))
    told.number = 0
    sentences = [e.sentence() for e in told.events()]
    assert "a is ready" in sentences
    assert {"gateway-0 serves", "gateway-1 serves"} <= set(sentences)
    assert "epoch 0 -> 1: 2 of 2 instances ready" in sentences


def test_a_lost_instance_is_told_with_why_since_when_and_what_every_gateway_says_it_carried():
    told = Told("a", "b", gateways=("gateway-0", "gateway-1"))
    told.pass_time(1.0)
    told.report("a", LOST, "connection refused")
    lost_at = told.now + UNIX_S
    told.pass_time(0.1)
    assert told.said() == [], "the gateways are waited for"
    told.links["gateway-0"].note_events((), [CarriedRequests("a", 3, 2, 0)])
    told.links["gateway-1"].note_events((), [CarriedRequests("a", 1, 0, 1)])
    told.pass_time(0.1)
    (lost,) = [e for e in told.events() if e.kind is EventKind.INSTANCE_LOST]
    assert dict(lost.fields) == {"since": lost_at, "continued": 4, "run_elsewhere": 2, "failed": 1}
    assert lost.sentence() == (
        "a is lost: connection refused; it carried 7 requests: 4 continued, 2 run elsewhere, 1 failed"
    )
    assert lost.bad


def test_a_gateway_that_stands_still_is_not_waited_for_for_long():
    told = Told("a", gateways=("gateway-0", "gateway-1"))
    del told.links["gateway-1"]
    told.report("a", LOST, "connection refused")
    told.pass_time(CARRIED_WITHIN_S - 0.2)
    assert told.said() == []
    told.pass_time(0.4)
    assert told.said() == [f"a is lost: connection refused; {NOTHING}"]
    told.pass_time(SILENT_S)
    assert told.said() == ["gateway-1 is gone: nothing was heard of it for 3 s"]


def test_a_server_of_ours_that_is_killed_is_lost_then_started_again_then_back():
    told = Told("a")
    why = "its server ended with exit code -9: Killed; started again"
    told.report("a", STARTING, why, last_end=ServerEnd(-9, "INFO: serving"))
    told.report("a", READY, since=told.now + UNIX_S + 3.25)
    told.pass_time(0.5)
    lost, restarted, back = (e for e in told.events() if e.instance_id)
    assert lost.sentence() == f"a is lost: {why}; {NOTHING}"
    assert restarted.kind is EventKind.INSTANCE_RESTARTED
    assert dict(restarted.fields) == {"exit_code": -9, "log_line": "INFO: serving"}
    assert restarted.sentence() == "a is started again; exit code -9; its log ends with: INFO: serving"
    assert back.sentence() == "a is ready again after 3.2 s"


def test_a_restart_that_was_asked_for_is_no_loss():
    told = Told("a")
    assert told.after(1, a=DRAINING) == ["a drains"]
    assert told.after(1, a=STOPPING) == []
    told.report("a", STARTING, "it was restarted on request", last_end=ServerEnd(0, ""))
    told.pass_time(0.2)
    assert told.said() == ["a is started again: it was restarted on request; exit code 0; its log is empty"]
    assert told.after(1, a=READY)[0].startswith("a is ready again after")


def test_what_drains_and_leaves_is_told():
    told = Told("a", "b")
    assert told.after(1, a=DRAINING) == ["a drains"]
    assert told.after(1, a=READY) == ["a drains no more"]
    assert told.after(1, a=DRAINING) == ["a drains"]
    assert told.after(1, a=STOPPING) == []
    assert told.after(1, a=STOPPED) == []
    del told.members["a"]
    told.core.forget("a")
    assert told.said() == ["a has left"]


def test_one_that_is_new_is_told_as_it_starts_and_is_ready():
    told = Told("a")
    assert told.after(1, b=LOST) == [f"b is lost: why; {NOTHING}"]
    assert told.after(1, b=STARTING) == ["b is starting: why"]
    assert told.after(1, b=READY) == ["b is ready"]
    assert told.after(1, b=LOST) == [f"b is lost: why; {NOTHING}"], "though it was lost before it served, a moment ago"


def test_one_that_answers_but_cannot_be_used_is_told_each_reason_but_not_all_the_time():
    told = Told()
    for reason in ("503: it loads its model", "answers, but is no vLLM server", "503: it loads its model"):
        told.report("a", STARTING, reason)
        told.pass_time(0.5)
    assert told.said() == ["a is starting: 503: it loads its model"]
    told.report("a", STARTING, "answers, but is no vLLM server")
    told.pass_time(CALM_S)
    assert told.said() == ["a is starting: answers, but is no vLLM server"]


def test_one_that_comes_and_goes_is_told_once_in_a_while_and_as_it_is_by_then():
    told = Told("a")
    said = [line for _ in range(4) for state in (LOST, READY) for line in told.after(0.5, a=state)]
    assert [line.split(":")[0] for line in said] == ["a is lost", "a is ready again after 1.0 s"]
    told.pass_time(CALM_S)
    lost, back = told.said()
    assert lost == f"a is lost: why; {NOTHING}", "its life is another one"
    assert back.startswith("a is ready again")
    assert told.after(1, a=LOST) == [], "it was told a moment ago"
    told.pass_time(CALM_S)
    assert told.said() == [f"a is lost: why; {NOTHING}"]


def test_one_that_falls_silent_is_lost():
    told = Told("a", "b")
    del told.members["a"]
    told.pass_time(8.0)
    assert told.said() == [f"a is lost: its watcher has said nothing for 5 s; {NOTHING}"]


def test_nothing_is_told_before_all_have_reported_that_will_at_first():
    told = Told("a")
    told.core = FleetCore(("a", "b"), {"": SchedulerConfig()}, told.now, unix_now=told.now + UNIX_S)
    told.links, told.number = {"gateway-0": GatewayLink("gateway-0")}, 0
    told.pass_time(2.0)
    assert [e.kind for e in told.events()] == [EventKind.GATEWAY_JOINED]


def test_a_gateway_that_takes_the_place_of_one_is_told_to_be_restarted():
    told = Told("a")
    told.links["gateway-0"] = GatewayLink("gateway-0")
    told.pass_time(0.5)
    assert told.said() == ["gateway-0 was restarted"]


def test_a_gateway_whose_place_another_has_taken_is_not_lost_when_it_ends():
    told = Told("a")
    told.links["gateway-0.1"] = GatewayLink("gateway-0.1")
    told.pass_time(0.5)
    told.links["gateway-0"].leaving = True
    told.pass_time(0.5)
    assert told.said() == ["gateway-0.1 serves", "gateway-0 lets its answers end: another serves in its place"]
    told.pass_time(5.0)
    del told.links["gateway-0"]
    told.pass_time(4.0)
    assert told.said() == ["gateway-0 has ended"]
    del told.links["gateway-0.1"]
    told.pass_time(4.0)
    assert told.said() == ["gateway-0.1 is gone: nothing was heard of it for 3 s"]


def test_moves_of_epochs_within_a_second_are_one():
    told = Told("a", "b", "c")
    told.pass_time(2.0)
    told.events()
    for instance_id in "abc":
        told.report(instance_id, DRAINING)
        told.pass_time(0.1)
    told.pass_time(1.5)
    moves = [dict(e.fields) for e in told.events() if e.kind is EventKind.EPOCH_MOVED]
    assert [move["ready"] for move in moves] in ([2, 0], [0])
    assert moves[-1]["to"] == moves[0]["from"] + 3


def test_a_fleet_that_was_restarted_tells_that_and_not_that_all_have_joined():
    first = Told("a", "b", "c")
    first.links["gateway-0"].note_events([event(1)], ())
    first.pass_time(0.5)
    told = Told(number=10_000)
    told.core = FleetCore(("a",), {"": SchedulerConfig()}, told.now, 10_000, unix_now=told.now + UNIX_S)
    told.links, told.members = first.links, {k: m for k, m in first.members.items() if k != "c"}
    told.number = first.core.events(0).number
    record = first.core.events(0).events
    for _ in range(3):
        report = first.links["gateway-0"].report(
            (), {}, told_before=record if told.links["gateway-0"].tell_events else ()
        )
        told.links["gateway-0"].hear(told.core.sync(report, told.now))
    told.pass_time(8.0)
    news = told.core.events(0)
    sentences = [e.sentence() for e in news.events]
    assert sentences.count("Fleet was restarted: it knows 2 instances") == 1
    assert sentences.count("a is ready") == 1, "as the Fleet before it told"
    assert any(line.startswith("c is lost: nothing was heard of it since Fleet was restarted") for line in sentences)
    assert "1 is slow to gateway-0" in sentences, "what gateways have heard is not lost with it"
    moves = [dict(e.fields) for e in news.events if e.kind is EventKind.EPOCH_MOVED]
    assert [move["from"] for move in sorted(moves, key=lambda move: move["to"])] == [0, 1]


def test_the_board_keeps_the_last_events_and_takes_each_once():
    board = EventBoard(1)
    for number in range(2 * MOST_EVENTS):
        board.put(event(number))
    board.put(event(2 * MOST_EVENTS - 1))
    news = board.news(0)
    assert [e.instance_id for e in news.events] == [str(n) for n in range(MOST_EVENTS, 2 * MOST_EVENTS)]
    assert board.news(news.number) is None
    assert len(board.take_unlogged()) == MOST_EVENTS
    board.adopt([event(0), event(2 * MOST_EVENTS - 1)])
    assert [e.instance_id for e in board.news(news.number).events] == ["0"]
    assert board.take_unlogged() == (), "it was logged where it happened"


def test_what_gateways_and_scalers_see_reaches_all_others():
    told = Told("a", gateways=("gateway-0", "gateway-1"))
    told.links["gateway-1"].note_events([event(1)], ())
    acted = FleetEvent(
        at=1.0, kind=EventKind.SCALING_ACTED, pool="code", reason="they wait", fields=(("replicas", 2), ("start", 1))
    )
    told.core.teller.put([acted], told.now)
    told.pass_time(0.2)
    assert told.said() == ["scaling of code: start 1: they wait", "1 is slow to gateway-0"]
    assert told.core.sync(GatewayReport("gateway-2"), told.now).events.events[-1].kind is EventKind.GATEWAY_JOINED


@pytest.mark.parametrize("kind", EventKind)
def test_every_event_has_a_sentence_of_all_that_it_tells(kind):
    fields = tuple((name, "x" if name in ("drain", "log_line", "file") else 3) for name in ABOUT[kind].fields)
    said = FleetEvent(
        at=1.0, kind=kind, instance_id="i", gateway="g", reason="because of that", fields=fields
    ).sentence()
    assert said
    assert "{" not in said
