"""Tells a person which instances are lost, and which are back."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray

from dualmap.router.fleet.actor_by_name import FLEET, actor_by_name
from dualmap.router.fleet.client import ask_fleet
from dualmap.scheduler.fleet.member import SERVING, Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState

LOOK_S = 0.5
CALM_S = 30.0  # an instance that comes and goes is said to be lost no more often than this, each time until it is back


class TellStates:
    """say: is told a line."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say = say
        self._clock = clock
        self._told: dict[str, _Told] = {}
        self._begun = False
        self._call: Any = None  # to Fleet, under way
        self._next_look = 0.0

    def begin(self) -> None:
        """What is there now needs no telling. Raises RayError where Fleet is away."""
        self.note(ask_fleet().members)

    def round(self) -> tuple[Member, ...]:
        """Look at Fleet now and then; waits for nothing. The members that were seen now. Raises RayError where Fleet is
        away."""
        now = self._clock()
        if self._call is None:
            if now >= self._next_look:
                self._next_look = now + LOOK_S
                self._call = actor_by_name(FLEET).state.remote()
        elif ray.wait([self._call], timeout=0)[0]:
            call, self._call = self._call, None
            state: FleetState = ray.get(call)
            self.note(state.members)
            return state.members
        return ()

    def note(self, members: Iterable[Member]) -> None:
        """All members, as they are at this moment. Of the first ones nothing is told."""
        before, self._told = self._told, {}
        for member in members:
            serving, lost = member.state in SERVING, member.state is MemberState.LOST
            told = before.get(member.instance_id)
            if told is None:
                told = _Told(serving, member.incarnation if serving else 0, lost and not self._begun)
            self._told[member.instance_id] = told
            if member.state not in (MemberState.STOPPING, MemberState.STOPPED):
                self._tell(member, told, serving, lost)
        self._begun = True

    def _tell(self, member: Member, told: "_Told", serving: bool, lost: bool) -> None:
        now = self._clock()
        again = " again" if told.incarnation else ""
        if serving and not told.serving:
            self._say(f"{member.instance_id} is ready{again}")
        elif now < told.calm_until:
            return
        elif serving and member.incarnation > told.incarnation:
            told.calm_until = now + CALM_S
            self._say(f"{member.instance_id} is ready again: {member.reason or 'it was gone for a moment'}")
        elif not serving and (told.serving or (lost and not told.lost)):
            told.calm_until = now + CALM_S
            self._say(f"{member.instance_id} is {member.state}" + (f": {member.reason}" if member.reason else ""))
        else:
            return
        told.serving, told.lost = serving, lost
        if serving:
            told.incarnation = member.incarnation


@dataclass(slots=True)
class _Told:
    """Of an instance. incarnation: that was last told to be ready; 0: none. lost: that it is."""

    serving: bool
    incarnation: int
    lost: bool
    calm_until: float = 0.0
