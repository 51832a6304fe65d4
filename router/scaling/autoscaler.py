"""Autoscaler: an actor around a pool's Scaler. It says which instances there should be; `dualmap up`, which owns
their actors, starts and stops them accordingly.

It keeps nothing that Fleet and `dualmap up` do not bring back but a rolling restart, which ends with it, and for how
long a change of roles that was taken back is not made again.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualmap.router.fleet.client import FleetClient
from dualmap.router.reach.names import WATCHER
from dualmap.router.reach.reach import CallError, NoActorError, Reach
from dualmap.router.scaling.plan_log import PlanLog
from dualmap.router.scaling.rolling_restart import RollingRestart
from dualmap.scheduler.fleet.pool_scaler import PoolScaler, Replicas
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, WantedPool
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_plan import instances

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
CALL_TIMEOUT_S = 5.0  # of a call to an instance's actor; it is made again


class Autoscaler:
    """scaled: the pool, or the instances of each role in it."""

    def __init__(self, scaled: Sequence[Scaled], log_path: Path | None, reach: Reach) -> None:
        self._reach = reach
        self._scaler = PoolScaler(scaled)
        self._logs = {one.role: PlanLog(log_path, one.pool_name, one.role) for one in scaled}
        self._fleet = FleetClient(reach)
        self._rolling: RollingRestart | None = None
        self._looked = asyncio.Event()
        self._informed = asyncio.Event()
        self._asked = asyncio.Event()  # set, and replaced, when `dualmap up` asks
        self._task = asyncio.create_task(self._run())

    async def wanted(self, last: WantedPool, failed: dict[str, str], config: ScalingConfig | None = None) -> WantedPool:
        """See PoolScaler. `dualmap up` calls this all the time."""
        wanted = self._scaler.wanted(last, failed, time.monotonic(), config)
        self._asked.set()
        self._asked = asyncio.Event()
        return wanted

    # What people ask for. Each waits for the fleet's state, then until `dualmap up` knows what a successor of this
    # process must know, and returns a line that says what happens now. Raises RefusedError.

    async def scale(self, replicas: Replicas) -> str:
        await self._informed.wait()
        line = self._scaler.scale(replicas)
        await self._asked.wait()
        return line

    async def drain(self, instance_id: str, undo: bool) -> str:
        await self._informed.wait()
        scaler = self._scaler.scaler_of(instance_id)
        told = scaler.told
        if undo:
            scaler.keep(instance_id)
            if not await self._call_named(instance_id, "undrain"):
                raise RefusedError(f"{instance_id} does not answer; try again")
            line = scaler.kept(instance_id)
        else:
            line = scaler.drain(instance_id, time.monotonic())
        if scaler.told != told:
            await self._asked.wait()
        if not undo and not await self._call_named(instance_id, "drain"):
            if instance_id in scaler.ids:
                raise RefusedError(f"{instance_id} does not answer; it is tried again")
            scaler.keep(instance_id)
            raise RefusedError(f"{instance_id} does not answer")
        return line

    async def change_role(self, instance_id: str, role: str) -> str:
        """Of an instance that others start."""
        await self._informed.wait()
        line = self._scaler.change_role(instance_id, role)
        await self._asked.wait()
        return line

    async def restart(self) -> str:
        """All instances of ours, one after the other, role by role."""
        await self._informed.wait()
        if self._rolling is not None and not self._rolling.done:
            raise RefusedError("a restart is under way")
        groups = [scaler for scaler in self._scaler.scalers.values() if scaler.staying()]
        if not groups:
            raise RefusedError("the instances of this deployment run on their own: they are not restarted here")
        self._rolling = RollingRestart(groups, self)
        count = sum(len(scaler.staying()) for scaler in groups)
        return f"restarting {instances(count)}, one after the other"

    async def cancel_restart(self) -> str:
        await self._informed.wait()
        if self._rolling is None or self._rolling.done:
            raise RefusedError("no restart is under way")
        return self._rolling.cancel()

    async def describe(self) -> list[dict[str, Any]]:
        """For each role, all there is to know, as plain values."""
        await self._informed.wait()
        restart = self._rolling.describe() if self._rolling else None
        rows = zip(self._scaler.describe(), self._logs.values(), strict=True)
        return [{**row, "plans": list(log.plans), "restart": restart} for row, log in rows]

    # What the rolling restart uses.

    async def call(self, instance_id: str, method: str) -> bool:
        """Whether the instance's actor did it, or the Watcher for one that runs on its own."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                try:
                    actor = self._reach(instance_id, anew=True)
                except NoActorError:
                    return bool(await self._reach(WATCHER, anew=True).call(method, instance_id))
                await actor.call(method)
        except (CallError, TimeoutError):
            return False
        return True

    async def _call_named(self, instance_id: str, method: str) -> bool:
        """Of a server's id: all its ranks."""
        named = self._scaler.scaler_of(instance_id).named(instance_id)
        done = [await self.call(each, method) for each in named]
        return all(done)

    async def news(self) -> None:
        """Returns after the next look at the fleet."""
        await self._looked.wait()

    # The loop.

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # a fault in one round must not end all scaling
                logger.exception("scaling goes on after an error")
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(INTERVAL_S)

    async def _look(self) -> None:
        scaler, rolling = self._scaler, self._rolling
        told = tuple(event for log in self._logs.values() for event in log.untold)
        state = await self._fleet.state(scaler.plans, told)
        if state is not None:
            for log in self._logs.values():
                log.untold.clear()
        turn, extra = (rolling.instance_id, rolling.extra) if rolling else (None, None)
        draining = scaler.look(state, time.monotonic(), turn, extra)
        if scaler.informed:
            self._informed.set()
        for role, one in scaler.scalers.items():
            if one.plan is not None:
                self._logs[role].note(one.plan, one.dry_run)
        for instance_id in draining:
            await self.call(instance_id, "drain")
