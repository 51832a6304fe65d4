"""All instances restarted one after the other: each is drained, its server stopped and started again, and the next one
waits until it is ready."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState


class Instances(Protocol):
    """Which there should be: the Scaler."""

    state: FleetState | None

    @property
    def drain_deadline_s(self) -> float: ...

    def member(self, instance_id: str) -> Member | None: ...

    def add(self) -> str: ...

    def let_go(self, instance_id: str, now: float) -> None: ...


class Actors(Protocol):
    """Of the instances, as the Autoscaler reaches them."""

    async def call(self, instance_id: str, method: str) -> bool: ...

    async def news(self) -> None: ...


class RollingRestart:
    """instance_id: whose turn it is. extra: one more for the time being, where there is only one that does the same."""

    def __init__(self, groups: Sequence[tuple[Instances, Sequence[str]]], actors: Actors) -> None:
        """groups: instances that do the same, by their ids, one or more; group after group."""
        self.instance_id: str | None = None
        self.extra: str | None = None
        self._groups = groups
        self._instances, self._ids = groups[0]  # whose turn it is
        self._actors = actors
        self._finished: list[str] = []
        self._step = "begins"
        self._task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        return self._task.done()

    def describe(self) -> dict[str, Any]:
        error = ""
        if self._task.done() and not self._task.cancelled() and self._task.exception() is not None:
            error = repr(self._task.exception())
        return {
            "ids": [instance_id for _, ids in self._groups for instance_id in ids],
            "finished": list(self._finished),
            "instance_id": self.instance_id,
            "step": self._step,
            "done": self.done,
            "error": error,
        }

    async def _run(self) -> None:
        for group in self._groups:
            self._instances, self._ids = group
            await self._restart_group()
        self._step = "done"

    async def _restart_group(self) -> None:
        if len(self._ids) == 1:
            self.extra = self._instances.add()
            await self._until(f"{self.extra}, for the time being, starts", lambda: self._is_ready(self.extra))
        for instance_id in self._ids:
            await self._restart(instance_id)
        if self.extra is not None:
            self._instances.let_go(self.extra, time.monotonic())
            self.extra = None

    async def _restart(self, instance_id: str) -> None:
        others = [i for i in self._ids if i != instance_id]
        await self._until(
            f"before {instance_id}: the others must be ready", lambda: all(self._is_ready_or_gone(i) for i in others)
        )
        member = self._instances.member(instance_id)
        if member is None:
            return  # it has left meanwhile
        incarnation = member.incarnation
        self.instance_id = instance_id
        try:
            while not await self._actors.call(instance_id, "drain"):
                await self._actors.news()
            deadline = time.monotonic() + self._instances.drain_deadline_s
            await self._until(
                f"{instance_id} drains", lambda: self._is_drained(instance_id) or time.monotonic() > deadline
            )
            while not await self._actors.call(instance_id, "restart_server"):
                await self._actors.news()
            await self._until(f"{instance_id} starts", lambda: self._is_ready(instance_id, incarnation + 1))
        finally:
            self.instance_id = None
        self._finished.append(instance_id)

    async def _until(self, step: str, condition: Callable[[], bool]) -> None:
        self._step = step
        while not condition():
            await self._actors.news()

    def _is_drained(self, instance_id: str) -> bool:
        """Also if it has died meanwhile."""
        state, member = self._instances.state, self._instances.member(instance_id)
        if state is None or member is None or member.state is MemberState.READY:
            return False
        return member.state is not MemberState.DRAINING or state.is_drained(instance_id)

    def _is_ready(self, instance_id: str | None, incarnation: int = 0) -> bool:
        member = self._instances.member(instance_id or "")
        return member is not None and member.state is MemberState.READY and member.incarnation >= incarnation

    def _is_ready_or_gone(self, instance_id: str) -> bool:
        return self._instances.member(instance_id) is None or self._is_ready(instance_id)
