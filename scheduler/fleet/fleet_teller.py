"""Tells what happens to a fleet, as Fleet learns of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from dualmap.scheduler.fleet.event_board import EventBoard
from dualmap.scheduler.fleet.fleet_event import EventKind, Fields, FleetEvent
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.member_events import MemberEvents
from dualmap.scheduler.fleet.messages import CarriedRequests, GatewayReport, GatewayState

CARRIED_WITHIN_S = 2.0  # gateways say within their next two calls what a lost instance carried; one may stand still
EPOCHS_WITHIN_S = 1.0


class FleetTeller:
    """board: what was told. `now` is in seconds of any monotonic clock, `at` the same moment as Unix seconds."""

    def __init__(self, first_number: int) -> None:
        self.board = EventBoard(first_number)
        self._members = MemberEvents()
        self._begun = False
        self._known_before: dict[str, Member] = {}
        self._gateways: dict[str, int] = {}  # its last epoch
        self._leaving: set[str] = set()  # of these
        self._losses: dict[str, _Loss] = {}  # by instance
        self._epoch = 0  # that was told last
        self._epoch_at = 0.0  # when

    def note_gateway(self, report: GatewayReport, at: float) -> None:
        """A gateway has called: what it knows is known from now on."""
        self._known_before |= {member.instance_id: member for member in report.members}
        self.board.adopt(report.told_before)
        for event in report.events:
            self._put(event, at)
        for carried in report.carried:
            if (loss := self._losses.get(carried.instance_id)) is not None:
                loss.carried[report.gateway_id] = carried
        known = self._gateways.get(report.gateway_id)
        if known is None and not report.epoch:
            self._about(report.gateway_id, EventKind.GATEWAY_JOINED, at)
        elif known and not report.epoch:
            self._about(report.gateway_id, EventKind.GATEWAY_RESTARTED, at)
        self._gateways[report.gateway_id] = report.epoch
        if report.leaving and report.gateway_id not in self._leaving:
            self._leaving.add(report.gateway_id)
            self._about(report.gateway_id, EventKind.GATEWAY_LEAVING, at)
        if not self._begun:  # what was told before
            self._epoch = max(self._epoch, report.epoch)

    def begin(self, members: Mapping[str, Member], successor: bool, now: float, at: float) -> None:
        """All have reported that will at first. successor: there was a Fleet before, which gateways know of."""
        if self._begun:
            return
        self._begun = True
        if successor:
            self._put(FleetEvent(at=at, kind=EventKind.FLEET_RESTARTED, fields=(("members", len(members)),)), at)
            for member in (self._known_before or members).values():
                self._members.adopt(member)
            for member in self._known_before.values():
                if member.instance_id not in members:
                    why = "nothing was heard of it since Fleet was restarted"
                    self.note(replace(member, state=MemberState.LOST, reason=why, since=at), now, at)
        for member in members.values():
            self.note(member, now, at)

    def note(self, member: Member, now: float, at: float) -> None:
        """An instance's state."""
        if self._begun:
            for event in self._members.note(member, now):
                self._tell(event, now, at)

    def forget(self, member: Member, at: float) -> None:
        """It is gone for good."""
        self._members.forget(member.instance_id)
        if self._begun:
            event = FleetEvent(at=at, kind=EventKind.INSTANCE_LEFT, pool=member.pool, instance_id=member.instance_id)
            self._tell(event, 0.0, at)

    def put(self, events: Iterable[FleetEvent], at: float) -> None:
        """What others have learned."""
        for event in events:
            self._put(event, at)

    def look(
        self, epoch: int, members: Mapping[str, Member], gateways: Iterable[GatewayState], now: float, at: float
    ) -> None:
        """Tell what had to wait. epoch: of the members; of gateways: that they use."""
        if not self._begun:
            return
        epochs = {gateway.gateway_id: gateway.epoch for gateway in gateways}
        for gateway_id in self._gateways.keys() - epochs.keys():
            del self._gateways[gateway_id]
            if gateway_id in self._leaving:
                self._leaving.discard(gateway_id)
                self._about(gateway_id, EventKind.GATEWAY_LEFT, at)
            else:
                self._about(gateway_id, EventKind.GATEWAY_LOST, at, "nothing was heard of it for 3 s")
        for instance_id, loss in list(self._losses.items()):
            loss.epoch = loss.epoch or epoch
            if now >= loss.until or (epochs and all(known >= loss.epoch for known in epochs.values())):
                del self._losses[instance_id]
                for event in loss.events():
                    self._put(event, at)
        for event in self._members.look(now):
            self._tell(event, now, at)
        if epoch > self._epoch and not self._losses and now - self._epoch_at >= EPOCHS_WITHIN_S:
            ready = sum(member.state is MemberState.READY for member in members.values())
            fields: Fields = (("from", self._epoch), ("to", epoch), ("ready", ready), ("members", len(members)))
            self._epoch, self._epoch_at = epoch, now
            self._put(FleetEvent(at=at, kind=EventKind.EPOCH_MOVED, fields=fields), at)

    def _tell(self, event: FleetEvent, now: float, at: float) -> None:
        """What becomes of an instance is told after its loss."""
        loss = self._losses.get(event.instance_id)
        if loss is not None:
            loss.after.append(event)
        elif event.kind is EventKind.INSTANCE_LOST:
            self._losses[event.instance_id] = _Loss(event=event, until=now + CARRIED_WITHIN_S)
        else:
            self._put(event, at)

    def _about(self, gateway_id: str, kind: EventKind, at: float, reason: str = "") -> None:
        self._put(FleetEvent(at=at, kind=kind, gateway=gateway_id, reason=reason), at)

    def _put(self, event: FleetEvent, at: float) -> None:
        self.board.put(event if event.at else replace(event, at=at))


@dataclass(slots=True, kw_only=True)
class _Loss:
    """Of an instance, while gateways are waited for. until: when they are waited for no longer. epoch: from which on it
    is out; 0: not published yet. carried: by gateway. after: what happened to it since."""

    event: FleetEvent
    until: float
    epoch: int = 0
    carried: dict[str, CarriedRequests] = field(default_factory=dict)
    after: list[FleetEvent] = field(default_factory=list)

    def events(self) -> Iterable[FleetEvent]:
        told = self.carried.values()
        counts: Fields = (
            ("continued", sum(carried.continued for carried in told)),
            ("run_elsewhere", sum(carried.run_elsewhere for carried in told)),
            ("failed", sum(carried.failed for carried in told)),
        )
        return chain((replace(self.event, fields=self.event.fields + counts),), self.after)
