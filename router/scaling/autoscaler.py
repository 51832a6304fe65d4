"""Autoscaler: says which instances there should be, by plans or as it is told. `dualmap up`, which owns their actors,
starts and stops them accordingly; who leaves is drained first.

It keeps nothing that Fleet and `dualmap up` do not bring back but a rolling restart, which ends with it.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from dualmap.router.fleet.actor_by_name import NAMESPACE
from dualmap.router.fleet.client import FleetClient
from dualmap.router.scaling.rolling_restart import RollingRestart
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, PoolPlan
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_history import ScalingHistory
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan, plan_scaling

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
CALL_TIMEOUT_S = 5.0  # of a call to an instance's actor; it is made again
RETRY_S = 30.0  # after a start that failed
PLANS_KEPT = 50
MOST_REPLICAS = 1024


class RefusedError(Exception):
    """What was asked for cannot be done; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """The pool that is scaled. prefix: of the instances' ids, a number follows; empty where all are external.
    automatic: plans decide, not only people."""

    pool_name: str
    prefix: str
    config: ScalingConfig
    automatic: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """ids: of our instances that there should be. told: how many a person asked for; None: plans decide."""

    ids: tuple[str, ...]
    told: int | None


class Autoscaler:
    """ids: of our instances that there should be. leaving: of these, those that go once they are drained."""

    def __init__(self, scaled: Scaled, log_path: Path) -> None:
        self._scaled = scaled
        self._told: int | None = None  # by hand, instead of plans
        self._log_path = log_path
        self._fleet = FleetClient()
        self._history = ScalingHistory(scaled.pool_name, scaled.config)
        self._plans: deque[dict[str, Any]] = deque(maxlen=PLANS_KEPT)
        self._leaving: dict[str, float] = {}  # since when
        self._plan: PoolPlan | None = None  # the last one
        self._note = ""
        self._retry_at = 0.0
        self._rolling: RollingRestart | None = None
        self.ids: set[str] | None = None  # unknown until `dualmap up` has said what runs
        self.state: FleetState | None = None
        self._looked = asyncio.Event()
        self._informed = asyncio.Event()
        self._asked = asyncio.Event()  # set, and replaced, when `dualmap up` asks
        self._task = asyncio.create_task(self._run())

    async def wanted(self, last: Wanted, failed: dict[str, str], config: ScalingConfig | None = None) -> Wanted:
        """Which instances of ours there should be. last: the answer before, which is where a restarted Autoscaler goes
        on. failed: those that could not be started, and why. config: as it is by now. `dualmap up` calls this all the
        time."""
        if config is not None:
            self._scaled = replace(self._scaled, config=config)
        if self.ids is None:
            self.ids = set(last.ids)
            self._told = last.told
        for instance_id, why in failed.items():
            self.ids.discard(instance_id)
            self._note = f"{instance_id} could not be started: {why}"
            self._retry_at = time.monotonic() + RETRY_S
        self._asked.set()
        self._asked = asyncio.Event()
        return Wanted(tuple(sorted(self.ids)), self._told)

    # What people ask for. Each waits for the fleet's state, then until `dualmap up` knows what a successor of this
    # process must know, and returns a line that says what happens now.

    async def scale(self, replicas: int | None) -> str:
        """None: plans decide again. Raises RefusedError."""
        await self._informed.wait()
        scaled = self._scaled
        if not scaled.prefix:
            raise RefusedError("the instances of this deployment run on their own: they are not started here")
        if replicas is None:
            if not scaled.automatic:
                raise RefusedError("nothing is configured to scale by: there is no `scaling` section")
            self._told = None
            await self._asked.wait()
            return f"between {scaled.config.min_replicas} and {scaled.config.max_replicas}, by load"
        if not 1 <= replicas <= MOST_REPLICAS:
            raise RefusedError(f"the number of instances must be from 1 to {MOST_REPLICAS}, not {replicas}")
        self._told = replicas
        self._note = ""
        self._retry_at = 0.0
        await self._asked.wait()
        return f"{replicas} instances wanted, {len(self._staying())} there"

    async def drain(self, instance_id: str, undo: bool) -> str:
        """Raises RefusedError."""
        await self._informed.wait()
        members = self._members()
        if instance_id not in members:
            raise RefusedError(f"there is no instance {instance_id!r}; there are {', '.join(sorted(members))}")
        ours = self.ids is not None and instance_id in self.ids
        if undo:
            self._leaving.pop(instance_id, None)
            if not await self.call(instance_id, "undrain"):
                raise RefusedError(f"{instance_id} does not answer; try again")
            self._leaving.pop(instance_id, None)  # seen to drain meanwhile
            if ours and self._told is not None:
                self._told = max(self._told, len(self._staying()))
                await self._asked.wait()
            return f"{instance_id} is given requests again"
        ready = [i for i, member in members.items() if member.state is MemberState.READY and i not in self._leaving]
        if ready == [instance_id]:
            raise RefusedError(f"{instance_id} is the last instance that is ready")
        if ours and instance_id not in self._leaving:
            self._leaving[instance_id] = time.monotonic()
            if self._told is not None:
                self._told = max(1, self._told - 1)
                await self._asked.wait()
        if not await self.call(instance_id, "drain"):
            raise RefusedError(f"{instance_id} does not answer" + ("; it is tried again" if ours else ""))
        if ours:
            return f"{instance_id} is given no new requests and stops when those it has are done"
        return f"{instance_id} is given no new requests; it is not stopped, since it was not started here"

    async def restart(self) -> str:
        """All instances of ours, one after the other. Raises RefusedError."""
        await self._informed.wait()
        if self._rolling is not None and not self._rolling.done:
            raise RefusedError("a restart is under way")
        ids = self._staying()
        if not ids:
            raise RefusedError("the instances of this deployment run on their own: they are not restarted here")
        self._rolling = RollingRestart(self, ids, self._scaled.config.drain_deadline_s)
        return f"{len(ids)} instances are restarted one after the other"

    async def describe(self) -> dict[str, Any]:
        """All there is to know, as plain values."""
        await self._informed.wait()
        members, loads = self._members(), self.state.loads if self.state else {}
        config = self._bounds()
        rows = []
        for instance_id in sorted(self.ids or ()) + sorted(members.keys() - (self.ids or set())):
            member, load = members.get(instance_id), loads.get(instance_id)
            rows.append(
                {
                    "instance_id": instance_id,
                    "state": member.state.value if member else "starting",
                    "ours": instance_id in (self.ids or ()),
                    "leaving": instance_id in self._leaving,
                    "running": load.running if load else 0,
                    "waiting": load.waiting if load else 0,
                }
            )
        return {
            "pool": self._scaled.pool_name,
            "scaled": bool(self._scaled.prefix),
            "automatic": self._scaled.automatic and self._told is None,
            "dry_run": self._scaled.config.dry_run,
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "start_s": self._history.start_s,
            "fleet": "away" if self.state is None else "settled" if self.state.settled else "settling",
            "note": self._note,
            "plans": list(self._plans),
            "restart": self._rolling.describe() if self._rolling else None,
            "instances": rows,
        }

    # What the rolling restart uses.

    def member(self, instance_id: str) -> Member | None:
        return self._members().get(instance_id)

    def add(self) -> str:
        """One more, whatever plans say; the id of it."""
        (instance_id,) = self._start(1)
        return instance_id

    def let_go(self, instance_id: str) -> None:
        self._leaving.setdefault(instance_id, time.monotonic())

    async def call(self, instance_id: str, method: str) -> bool:
        """Whether the instance's actor did it."""
        try:
            actor = ray.get_actor(instance_id, namespace=NAMESPACE)
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await getattr(actor, method).remote()
        except (RayError, ValueError, TimeoutError):
            return False
        return True

    async def news(self) -> None:
        """Returns after the next look at the fleet."""
        await self._looked.wait()

    # The loop.

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except Exception:  # a fault in one round must not end all scaling
                logger.exception("scaling goes on after an error")
            self._looked.set()
            self._looked = asyncio.Event()
            await asyncio.sleep(INTERVAL_S)

    async def _round(self) -> None:
        self.state = await self._fleet.state(self._plan)
        if self.state is None or self.ids is None:
            return
        self._informed.set()
        await self._go_on_draining(self.state)
        if not self.state.settled or not self._scaled.prefix:
            return
        rolling = self._rolling.instance_id if self._rolling else None
        extra = {self._rolling.extra} if self._rolling else set()
        now = time.monotonic()
        self._history.add(now, self.state, sorted(self.ids - extra), self._leaving.keys(), rolling)
        plan = plan_scaling(self._history.samples(), self._bounds(), self._history.start_s)
        bounds = self._bounds()
        self._plan = PoolPlan(self._scaled.pool_name, plan.replicas, bounds.min_replicas, bounds.max_replicas)
        self._tell(plan, now)
        if self._told is None and self._scaled.config.dry_run:
            return
        if plan.start and now >= self._retry_at:
            self._give_up_lost(plan.start)
            self._start(plan.start)
        for instance_id in plan.drain:
            self._leaving[instance_id] = now
            await self.call(instance_id, "drain")

    async def _go_on_draining(self, state: FleetState) -> None:
        """Let those go that have nothing left to do, or have had the time for it; after a restart of ours, too."""
        assert self.ids is not None
        now = time.monotonic()
        members = self._members()
        rolling = self._rolling.instance_id if self._rolling else None
        for instance_id in sorted(self.ids):
            member = members.get(instance_id)
            if member is not None and member.state is MemberState.DRAINING and instance_id != rolling:
                self._leaving.setdefault(instance_id, now)
        for instance_id, since in list(self._leaving.items()):
            member = members.get(instance_id)
            late = now - since > self._scaled.config.drain_deadline_s
            if member is not None and member.state is MemberState.READY and not late:
                await self.call(instance_id, "drain")
            elif late or member is None or member.state is not MemberState.DRAINING or state.is_drained(instance_id):
                del self._leaving[instance_id]
                self.ids.discard(instance_id)

    def _give_up_lost(self, starting: int) -> None:
        """As many as those that start in their place would be too many."""
        assert self.ids is not None
        too_many = len(self._staying()) + starting - self._bounds().max_replicas
        self.ids -= set(sorted(self._history.lost)[: max(0, too_many)])

    def _bounds(self) -> ScalingConfig:
        config = self._scaled.config
        return config if self._told is None else replace(config, min_replicas=self._told, max_replicas=self._told)

    def _start(self, count: int) -> list[str]:
        """The lowest free numbers: what is started again gets its old places on the rings."""
        assert self.ids is not None
        self._note = ""
        started: list[str] = []
        number = 0
        while len(started) < count:
            instance_id = f"{self._scaled.prefix}{number}"
            number += 1
            if instance_id not in self.ids and instance_id not in self._members():
                self.ids.add(instance_id)
                started.append(instance_id)
        return started

    def _staying(self) -> list[str]:
        return sorted((self.ids or set()) - self._leaving.keys())

    def _members(self) -> dict[str, Member]:
        """Of the pool."""
        members = self.state.members if self.state else ()
        return {member.instance_id: member for member in members if member.pool == self._scaled.pool_name}

    def _tell(self, plan: ScalingPlan, now: float) -> None:
        """Note a plan that differs from the one before in what it does, and write it to the log."""
        done = {"replicas": plan.replicas, "start": plan.start, "drain": list(plan.drain)}
        if self._plans and all(self._plans[-1][name] == value for name, value in done.items()):
            self._plans[-1]["reason"] = plan.reason
            return
        self._plans.append({"at": time.time(), **done, "reason": plan.reason})
        if plan.start or plan.drain:
            what = f"start {plan.start}" if plan.start else f"drain {', '.join(plan.drain)}"
            only = "dry run: " if self._scaled.config.dry_run and self._told is None else ""
            try:
                with self._log_path.open("a") as log:
                    log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {only}{what}: {plan.reason}\n")
            except OSError:
                logger.exception("a plan is not in %s", self._log_path)
