"""The state of each instance as a gateway shows it: what Fleet says of it, and of a ready one whether it does well."""

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median_low
from typing import Any, NamedTuple

from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.instance.reported_load import STALE_AFTER_S

SUSPECT = "suspect"  # a request could not be sent there, or was broken off; it is left alone for a moment
SLOW = "slow"
SLOW_FACTOR = 2.0  # of what the instances of its pool need for a token of prefill work
CONDITIONS = (SUSPECT, SLOW)  # of a ready one
TOLD = {
    SUSPECT: EventKind.INSTANCE_SUSPECT,
    SLOW: EventKind.INSTANCE_SLOW,
    MemberState.READY.value: EventKind.INSTANCE_WELL,
}
CALM_S = 10.0  # whether a ready instance does well is told no more often than this


class InstanceState(NamedTuple):
    """since: Unix seconds. member_since: of Fleet's state."""

    name: str
    reason: str
    since: float
    member_since: float


class InstanceStates:
    """schedulers: by pool. clock: theirs. tell: is told whether ready instances do well; all else Fleet tells."""

    def __init__(
        self,
        schedulers: Mapping[str, Scheduler],
        clock: Callable[[], float],
        gateway_id: str,
        tell: Callable[[FleetEvent], None],
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._schedulers = schedulers
        self._clock = clock
        self._gateway_id = gateway_id
        self._tell = tell
        self._unix_clock = unix_clock
        self._members: tuple[Member, ...] = ()
        self._states: dict[str, InstanceState] = {}
        self._told: dict[str, tuple[str, float]] = {}  # how a ready one does, until when no more of it

    def apply_membership(self, membership: Membership) -> None:
        self._members = membership.members
        self.look()

    def look(self) -> Mapping[str, InstanceState]:
        """Of all instances at this moment; what has changed of how ready ones do is told."""
        now, unix_now = self._clock(), self._unix_clock()
        slow = {i: why for scheduler in self._schedulers.values() for i, why in _slow(scheduler)}
        before, self._states = self._states, {}
        for member in self._members:
            name, reason = self._how(member, slow, now)
            since = _since(member, name, before.get(member.instance_id), unix_now)
            self._states[member.instance_id] = InstanceState(name, reason, since, member.since)
            self._note(member, name, reason, now, unix_now)
        for instance_id in before.keys() - self._states.keys():
            self._told.pop(instance_id, None)
        return self._states

    def describe(self) -> dict[str, dict[str, Any]]:
        """By instance, as plain values. state: as Fleet has it. condition: of a ready one that does not do well, else
        empty. for_s: how long it has been so."""
        states, unix_now = self.look(), self._unix_clock()
        return {
            instance_id: {
                "state": MemberState.READY.value if state.name in CONDITIONS else state.name,
                "condition": state.name if state.name in CONDITIONS else "",
                "reason": state.reason,
                "since": state.since,
                "for_s": max(0.0, unix_now - state.since),
            }
            for instance_id, state in states.items()
        }

    def _how(self, member: Member, slow: Mapping[str, str], now: float) -> tuple[str, str]:
        """Its state and the reason."""
        scheduler = self._schedulers.get(member.pool)
        view = None if scheduler is None else scheduler.instances.get(member.instance_id)
        if member.state is not MemberState.READY or view is None:
            return member.state.value, member.reason
        if view.reported.stale and view.reported.reported_at is not None:
            silent_s = now - max(view.reported.reported_at, view.service.answered_at)
            if silent_s > STALE_AFTER_S:
                return SLOW, f"neither its metrics nor its answers have said anything for {silent_s:.0f} s"
        if view.suspect_until > now:
            return SUSPECT, "it refused a connection or the key, or broke off an answer"
        if member.instance_id in slow:
            return SLOW, slow[member.instance_id]
        return member.state.value, member.reason

    def _note(self, member: Member, name: str, reason: str, now: float, unix_now: float) -> None:
        was, calm_until = self._told.get(member.instance_id, (MemberState.READY.value, now))
        if name not in TOLD:
            self._told.pop(member.instance_id, None)
        elif name != was and now >= calm_until:
            self._told[member.instance_id] = name, now + CALM_S
            event = FleetEvent(
                at=unix_now,
                kind=TOLD[name],
                pool=member.pool,
                instance_id=member.instance_id,
                gateway=self._gateway_id,
                reason=reason,
            )
            self._tell(event)


def _since(member: Member, name: str, before: InstanceState | None, unix_now: float) -> float:
    if before is not None and before.member_since == member.since:
        return before.since if before.name == name else unix_now
    return member.since if member.since and name == member.state.value else unix_now


def _slow(scheduler: Scheduler) -> Iterator[tuple[str, str]]:
    """Instances that need far longer for a token of prefill work than most of their pool do, against what was
    configured for each, and a sentence that says so."""
    views = scheduler.instances.values()
    if len(views) < 2:
        return
    paces = {v.instance_id: v.seconds_per_token * v.capacity.prefill_tokens_per_s for v in views}
    usual = median_low(paces.values())
    for view in views:
        factor = paces[view.instance_id] / usual
        if factor >= SLOW_FACTOR and view.speed.is_known:
            yield view.instance_id, f"it takes {factor:.1f} times as long for a prompt as most others"
