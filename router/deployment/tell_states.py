"""Tells a person which instances are lost, and which are back."""

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import ray

from dualmap.router.fleet.actor_by_name import FLEET, actor_by_name
from dualmap.scheduler.fleet.member import SERVING, Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState

LOOK_S = 1.0
CALM_S = 30.0  # an instance that comes and goes is said to be lost no more often than this, each time until it is back


class TellStates:
    """say: is told a line."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say = say
        self._clock = clock
        self._serving: dict[str, bool] = {}  # as was told
        self._lost_at: dict[str, float] = {}
        self._call: Any = None  # to Fleet, under way
        self._next_look = 0.0

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
            if state.settled:
                self.note(state.members)

    def note(self, members: Iterable[Member]) -> None:
        """All members, as they are at this moment."""
        now = self._clock()
        told, self._serving = self._serving, {}
        for member in members:
            instance_id, serving = member.instance_id, member.state in SERVING
            was = told.get(instance_id, serving)
            self._serving[instance_id] = was
            if serving == was or member.state in (MemberState.STOPPING, MemberState.STOPPED):
                continue
            if serving:
                self._say(f"{instance_id} is ready")
            elif now - self._lost_at.get(instance_id, -CALM_S) >= CALM_S:
                self._lost_at[instance_id] = now
                self._say(f"{instance_id} is {member.state}" + (f": {member.reason}" if member.reason else ""))
            else:
                continue
            self._serving[instance_id] = serving
        self._lost_at = {i: at for i, at in self._lost_at.items() if i in self._serving}
