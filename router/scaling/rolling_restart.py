"""All instances restarted one after the other: each is drained, its server stopped and started again, and the next one
waits until it is ready. Who leaves meanwhile is passed over; who comes meanwhile has a new server already."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState
from dualmap.scheduler.fleet.scaler import RefusedError


class Instances(Protocol):
    """Which there should be: the Scaler."""

    state: FleetState | None

    @property
    def drain_deadline_s(self) -> float: ...

    def staying(self) -> Sequence[str]: ...

    def member(self, instance_id: str) -> Member | None: ...

    def add(self) -> str: ...

    def let_go(self, instance_id: str, now: float) -> None: ...


class Actors(Protocol):
    """Of the instances, as the Autoscaler reaches them."""

    async def call(self, instance_id: str, method: str) -> bool: ...

    async def news(self) -> None: ...


class RollingRestart:
    """instance_id: whose turn it is. extra: one more for the time being, where there is only one that does the same."""

    def __init__(self, groups: Sequence[Instances], actors: Actors) -> None:
        """groups: each of instances that do the same, one or more; group after group."""
        self.instance_id: str | None = None
        self.extra: str | None = None
        self._groups = groups
        self._instances = groups[0]  # whose turn it is
        self._actors = actors
        self._left = {instance_id for group in groups for instance_id in group.staying()}
        self._finished: list[str] = []
        self._step = "begins"
        self._cancelled = False
        self._task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> str:
        """Restart no further one. Who only drains is given requests again; whose server was told to restart is waited
        for until it is ready or lost. Returns a line that says so."""
        self._cancelled = True
        line = "no further instance is restarted"
        return f"{line}; {self.instance_id} is waited for, until it is ready or lost" if self.instance_id else line

    def describe(self) -> dict[str, Any]:
        error = ""
        if self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            why = self._task.exception()
            error = str(why) if isinstance(why, RefusedError) else repr(why)
        return {
            "ids": [*self._finished, *(instance_id for group in self._groups for instance_id in self._next(group))],
            "finished": list(self._finished),
            "instance_id": self.instance_id,
            "step": self._step,
            "done": self.done,
            "error": error,
        }

    async def _run(self) -> None:
        for group in self._groups:
            self._instances = group
            while not self._cancelled and (following := self._next(group)):
                await self._restart(following[0])
            if self.extra is not None:
                if any(self._is_ready(other) for other in self._others(self.extra)):  # else plans say which one goes
                    group.let_go(self.extra, time.monotonic())
                self.extra = None
        self._step = "done"
        if self._cancelled and any(map(self._next, self._groups)):
            raise RefusedError("it was cancelled")

    def _next(self, group: Instances) -> list[str]:
        """Those still to be restarted."""
        return [i for i in group.staying() if i in self._left and i != self.extra]

    async def _restart(self, instance_id: str) -> None:
        """Returns sooner if it leaves."""
        if not self._others(instance_id):
            await self._stand_in(instance_id)
        await self._until(
            f"before {instance_id}: the others must be ready",
            instance_id,
            lambda: all(map(self._is_ready, self._others(instance_id))) and self._instances.member(instance_id),
        )
        member = self._instances.member(instance_id)
        if self._cancelled or member is None or not self._others(instance_id):
            return  # the others have left meanwhile
        incarnation = member.incarnation
        self.instance_id = instance_id
        try:
            await self._call(instance_id, "drain")
            deadline = time.monotonic() + self._instances.drain_deadline_s
            await self._until(
                f"{instance_id} drains",
                instance_id,
                lambda: self._cancelled or self._is_drained(instance_id) or time.monotonic() > deadline,
            )
            if self._cancelled:
                await self._call(instance_id, "undrain")
                await self._actors.news()  # of a look that may have been under way, and seen it drain
                await self._until(f"{instance_id} stays", instance_id, lambda: self._is_ready(instance_id))
                return
            await self._call(instance_id, "restart_server")
            await self._until(
                f"{instance_id} starts", instance_id, lambda: self._is_ready(instance_id, incarnation + 1)
            )
        finally:
            self.instance_id = None
        if self._stays(instance_id) and self._is_ready(instance_id, incarnation + 1):
            self._left.discard(instance_id)
            self._finished.append(instance_id)

    async def _stand_in(self, instance_id: str) -> None:
        """Raises RefusedError if the one more does not start."""
        extra = self.extra = self._instances.add()
        await self._until(
            f"{extra}, for the time being, starts",
            instance_id,
            lambda: self._is_ready(extra) or not self._others(instance_id),
        )
        if self._stays(instance_id) and not self._others(instance_id):
            self.extra = None
            raise RefusedError(f"{extra} has not started, which was to stand in for {instance_id}")

    def _others(self, instance_id: str) -> list[str]:
        return [other for other in self._instances.staying() if other != instance_id]

    def _stays(self, instance_id: str) -> bool:
        return instance_id in self._instances.staying()

    async def _call(self, instance_id: str, method: str) -> None:
        """Until it is heard, or that is not waited for."""
        while self._stays(instance_id) and not await self._actors.call(instance_id, method):
            if not self._is_waited_for(instance_id):
                return
            await self._actors.news()

    async def _until(self, step: str, instance_id: str, condition: Callable[[], object]) -> None:
        """Or that is not waited for."""
        self._step = step
        while self._is_waited_for(instance_id) and not condition():
            await self._actors.news()

    def _is_waited_for(self, instance_id: str) -> bool:
        """While the instance stays; after a cancellation only where its turn has begun, and it is not lost."""
        if self._cancelled:
            member = self._instances.member(instance_id)
            if instance_id != self.instance_id or (member is not None and member.state is MemberState.LOST):
                return False
        return self._stays(instance_id)

    def _is_drained(self, instance_id: str) -> bool:
        """Also if it has died meanwhile."""
        state, member = self._instances.state, self._instances.member(instance_id)
        if state is None or member is None or member.state is MemberState.READY:
            return False
        return member.state is not MemberState.DRAINING or state.is_drained(instance_id)

    def _is_ready(self, instance_id: str, incarnation: int = 0) -> bool:
        member = self._instances.member(instance_id)
        return member is not None and member.state is MemberState.READY and member.incarnation >= incarnation
