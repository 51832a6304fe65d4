"""Autoscaler: an actor around a pool's Scaler. It says which instances there should be; `dualmap up`, which owns
their actors, starts and stops them accordingly.

It keeps nothing that Fleet and `dualmap up` do not bring back but a rolling restart, which ends with it.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from dualmap.router.fleet.client import FleetClient
from dualmap.router.reach.names import WATCHER
from dualmap.router.reach.reach import CallError, NoActorError, Reach
from dualmap.router.scaling.plan_log import PlanLog
from dualmap.router.scaling.rolling_restart import RollingRestart
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Scaler, Wanted
from dualmap.scheduler.fleet.scaling_config import ScalingConfig

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
CALL_TIMEOUT_S = 5.0  # of a call to an instance's actor; it is made again


class Autoscaler:
    def __init__(self, scaled: Scaled, log_path: Path | None, reach: Reach) -> None:
        self._reach = reach
        self._scaler = Scaler(scaled)
        self._log = PlanLog(log_path, scaled.pool_name)
        self._fleet = FleetClient(reach)
        self._rolling: RollingRestart | None = None
        self._looked = asyncio.Event()
        self._informed = asyncio.Event()
        self._asked = asyncio.Event()  # set, and replaced, when `dualmap up` asks
        self._task = asyncio.create_task(self._run())

    async def wanted(self, last: Wanted, failed: dict[str, str], config: ScalingConfig | None = None) -> Wanted:
        """See Scaler. `dualmap up` calls this all the time."""
        wanted = self._scaler.wanted(last, failed, time.monotonic(), config)
        self._asked.set()
        self._asked = asyncio.Event()
        return wanted

    # What people ask for. Each waits for the fleet's state, then until `dualmap up` knows what a successor of this
    # process must know, and returns a line that says what happens now. Raises RefusedError.

    async def scale(self, replicas: int | None) -> str:
        """None: plans decide again."""
        await self._informed.wait()
        line = self._scaler.scale(replicas)
        await self._asked.wait()
        return line

    async def drain(self, instance_id: str, undo: bool) -> str:
        await self._informed.wait()
        told = self._scaler.told
        if undo:
            self._scaler.keep(instance_id)
            if not await self._call_named(instance_id, "undrain"):
                raise RefusedError(f"{instance_id} does not answer; try again")
            line = self._scaler.kept(instance_id)
        else:
            line = self._scaler.drain(instance_id, time.monotonic())
        if self._scaler.told != told:
            await self._asked.wait()
        if not undo and not await self._call_named(instance_id, "drain"):
            again = "; it is tried again" if instance_id in self._scaler.ids else ""
            raise RefusedError(f"{instance_id} does not answer{again}")
        return line

    async def restart(self) -> str:
        """All instances of ours, one after the other."""
        await self._informed.wait()
        if self._rolling is not None and not self._rolling.done:
            raise RefusedError("a restart is under way")
        ids = self._scaler.staying()
        if not ids:
            raise RefusedError("the instances of this deployment run on their own: they are not restarted here")
        self._rolling = RollingRestart(self._scaler, self, ids)
        return f"{len(ids)} instances are restarted one after the other"

    async def describe(self) -> dict[str, Any]:
        """All there is to know, as plain values."""
        await self._informed.wait()
        restart = self._rolling.describe() if self._rolling else None
        return {**self._scaler.describe(), "plans": list(self._log.plans), "restart": restart}

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
        done = [await self.call(each, method) for each in self._scaler.named(instance_id)]
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
        told = tuple(self._log.untold)
        state = await self._fleet.state(scaler.pool_plan, told)
        for _ in told if state is not None else ():
            self._log.untold.popleft()
        turn, extra = (rolling.instance_id, rolling.extra) if rolling else (None, None)
        draining = scaler.look(state, time.monotonic(), turn, extra)
        if scaler.informed:
            self._informed.set()
        if scaler.plan is not None:
            self._log.note(scaler.plan, scaler.dry_run)
        for instance_id in draining:
            await self.call(instance_id, "drain")
