"""What reports of members mean to people: who has come, is lost, is back."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dualmap.scheduler.fleet.fleet_event import EventKind, Fields, FleetEvent
from dualmap.scheduler.fleet.member import SERVING, Member, MemberState

CALM_S = 30.0  # an instance that comes and goes is said to be lost no more often than this, each time until it is back


class MemberEvents:
    """`now` is in seconds of any monotonic clock. Where an event has to wait, what is true then is told."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._waiting: dict[str, Member] = {}

    def adopt(self, member: Member) -> None:
        """It was so before, which somebody else has told."""
        serving = member.state in SERVING
        self._told[member.instance_id] = _Told(state=member.state, incarnation=member.incarnation if serving else 0)

    def note(self, member: Member, now: float) -> list[FleetEvent]:
        """An instance as it is at this moment."""
        told = self._told.setdefault(member.instance_id, _Told())
        self._waiting.pop(member.instance_id, None)
        events = list(told.changes(member, now))
        if told.waits:
            self._waiting[member.instance_id] = member
        return events

    def look(self, now: float) -> list[FleetEvent]:
        """What had to wait."""
        return [event for member in list(self._waiting.values()) for event in self.note(member, now)]

    def forget(self, instance_id: str) -> None:
        self._told.pop(instance_id, None)
        self._waiting.pop(instance_id, None)


@dataclass(slots=True, kw_only=True)
class _Told:
    """Of an instance. state: None: nothing yet. incarnation: the last one that served; 0: none did. waits: something
    could not be told yet. untold_loss: why it was lost meanwhile. calm: until when a kind is not told again, of one
    that served and of one that did not."""

    state: MemberState | None = None
    incarnation: int = 0
    reason: str = ""
    lost_at: float = 0.0
    waits: bool = False
    untold_loss: str = ""
    calm: dict[tuple[EventKind, bool], float] = field(default_factory=dict)

    def changes(self, member: Member, now: float) -> Iterator[FleetEvent]:
        before, served = self.state, self.state in SERVING
        self.waits = False
        match member.state:
            case MemberState.READY | MemberState.DRAINING:
                if served and member.incarnation > self.incarnation and self.incarnation:
                    if not self._may(EventKind.INSTANCE_LOST, now, served):
                        return
                    yield self._lost(member, member.reason or self.untold_loss or "it was gone for a moment")
                    yield self._event(EventKind.INSTANCE_BACK, member)
                elif not served:
                    yield self._returned(member)
                if member.state is MemberState.DRAINING and before is not MemberState.DRAINING:
                    yield self._event(EventKind.INSTANCE_DRAINING, member, reason="")
                elif member.state is MemberState.READY and before is MemberState.DRAINING and served:
                    yield self._event(EventKind.INSTANCE_UNDRAINED, member, reason="")
                self.incarnation = member.incarnation
            case MemberState.STARTING | MemberState.LOST:
                if served:
                    if not self._may(EventKind.INSTANCE_LOST, now, served):
                        self.untold_loss = member.reason
                        return
                    yield self._lost(member, member.reason or "who looked after it was started anew")
                    if member.last_end is not None and member.state is MemberState.STARTING:
                        yield self._restarted(member)
                elif before is MemberState.STOPPING:
                    yield self._restarted(member)
                elif before is not member.state or (member.reason and member.reason != self.reason):
                    lost = member.state is MemberState.LOST
                    kind = EventKind.INSTANCE_LOST if lost else EventKind.INSTANCE_STARTING
                    if (lost and before is MemberState.LOST) or not self._may(kind, now, served):
                        return  # lost for another reason: no news
                    yield self._lost(member, member.reason) if lost else self._event(kind, member)
            case MemberState.STOPPING | MemberState.STOPPED:
                self.lost_at = member.since if served else self.lost_at
        self.state, self.reason = member.state, member.reason

    def _may(self, kind: EventKind, now: float, served: bool) -> bool:
        if now < self.calm.get((kind, served), now):
            self.waits = True
            return False
        self.calm[kind, served] = now + CALM_S
        return True

    def _lost(self, member: Member, reason: str) -> FleetEvent:
        self.lost_at = member.since
        self.untold_loss = ""
        return self._event(EventKind.INSTANCE_LOST, member, (("since", member.since),), reason=reason)

    def _restarted(self, member: Member) -> FleetEvent:
        end = member.last_end
        fields: Fields = () if end is None else (("exit_code", end.exit_code), ("log_line", end.log_line))
        reason = member.reason if self.state is MemberState.STOPPING else ""
        return self._event(EventKind.INSTANCE_RESTARTED, member, fields, reason=reason)

    def _returned(self, member: Member) -> FleetEvent:
        if not self.incarnation:
            return self._event(EventKind.INSTANCE_JOINED, member)
        away_s = member.since - self.lost_at if self.lost_at else 0.0
        self.lost_at = 0.0
        return self._event(EventKind.INSTANCE_BACK, member, (("away_s", round(away_s, 3)),) if away_s > 0 else ())

    def _event(self, kind: EventKind, member: Member, fields: Fields = (), reason: str | None = None) -> FleetEvent:
        return FleetEvent(
            at=member.since,
            kind=kind,
            pool=member.pool,
            instance_id=member.instance_id,
            reason=member.reason if reason is None else reason,
            fields=fields,
        )
