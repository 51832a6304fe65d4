"""How instances and gateways reach Fleet. While it is away they go on with what they know."""

import asyncio
from typing import Any

from ray.exceptions import RayError

from dualmap.router.fleet.actor_by_name import FLEET, actor_by_name
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.fleet.messages import FleetNews, FleetState, GatewayReport, PoolPlan
from dualmap.scheduler.fleet.signals import InstanceSignals

TIMEOUT_S = 2.0  # a Fleet that stands still must not hold up its callers


class FleetClient:
    async def report(self, member: Member, signals: InstanceSignals | None) -> bool:
        """Whether Fleet knows all of the signals told so far. While Fleet is away the report is lost: the next
        heartbeat says it again."""
        return bool(await self._call("report", member, signals))

    async def sync(self, report: GatewayReport) -> FleetNews | None:
        """What is newer than is known; None while Fleet is away."""
        news: FleetNews | None = await self._call("sync", report)
        return news

    async def state(self, plan: PoolPlan | None) -> FleetState | None:
        """plan: the caller's, for gateways to show. None while Fleet is away."""
        state: FleetState | None = await self._call("state", plan)
        return state

    async def forget(self, instance_id: str) -> bool:
        """Whether Fleet has heard it."""
        return bool(await self._call("forget", instance_id))

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await getattr(actor_by_name(FLEET), method).remote(*arguments)
        except (RayError, ValueError, TimeoutError):
            return None
