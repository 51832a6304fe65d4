"""Tells a person which instances are lost, and which are back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray

from dualmap.router.fleet.actor_by_name import FLEET, actor_by_name
from dualmap.scheduler.fleet.member import SERVING, Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState

FLEET_TIMEOUT_S = 2.0
LOOK_S = 0.5
CALM_S = 30.0  # an instance that comes and goes is said to be lost no more often than this, each time until it is back


class TellStates:
    """say: is told a line."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say = say
        self._clock = clock
        self._told: dict[str, _Told] = {}
        self._call: Any = None  # to Fleet, under way
        self._next_look = 0.0

    def begin(self) -> None:
        """What is there now needs no telling. Raises RayError where Fleet is away."""
        state: FleetState = ray.get(actor_by_name(FLEET).state.remote(), timeout=FLEET_TIMEOUT_S)
        self.note(state.members)

    def round(self) -> None:
        """Look at Fleet now and then; waits for nothing. Raises RayError where Fleet is away."""
        now = self._clock()
        if self._call is None:
            if now >= self._next_look:
                self._next_look = now + LOOK_S
                self._call = actor_by_name(FLEET).state.remote()
        elif ray.wait([self._call], timeout=0)[0]:
            call, self._call = self._call, None
            state: FleetState = ray.get(call)
            self.note(state.members)

    def note(self, members: Iterable[Member]) -> None:
        """All members, as they are at this moment."""
        before, self._told = self._told, {}
        for member in members:
            serving = member.state in SERVING
            told = before.get(member.instance_id) or _Told(serving, member.incarnation if serving else 0)
            self._told[member.instance_id] = told
            if member.state not in (MemberState.STOPPING, MemberState.STOPPED):
                self._tell(member, told, serving)

    def _tell(self, member: Member, told: "_Told", serving: bool) -> None:
        now = self._clock()
        again = " again" if told.incarnation else ""
        missed = serving and told.serving and member.incarnation > told.incarnation
        calm = now >= told.calm_until
        if serving and not told.serving:
            self._say(f"{member.instance_id} is ready{again}")
        elif missed and calm:
            self._say(f"{member.instance_id} is ready again: {member.reason or 'it was gone for a moment'}")
        elif told.serving and not serving and calm:
            self._say(f"{member.instance_id} is {member.state}" + (f": {member.reason}" if member.reason else ""))
        else:
            return
        if told.serving:
            told.calm_until = now + CALM_S
        told.serving = serving
        if serving:
            told.incarnation = member.incarnation


@dataclass(slots=True)
class _Told:
    """Of an instance. incarnation: that was last told to be ready; 0: none."""

    serving: bool
    incarnation: int
    calm_until: float = 0.0
