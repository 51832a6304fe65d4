"""How instances and gateways reach Fleet. While it is away they go on with what they know."""

import asyncio
import logging
from typing import Any

from dualmap.router.reach.names import FLEET
from dualmap.router.reach.reach import CallError, Reach, RefusedFormError
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.fleet.messages import (
    Beat,
    FleetNews,
    FleetState,
    GatewayReport,
    InstanceReport,
    PoolPlan,
    ReportAnswer,
)
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0  # a Fleet that stands still must not hold up its callers


class FleetClient:
    """refused: why Fleet does not understand this process, which is of another version; empty: it does, or is away."""

    def __init__(self, reach: Reach) -> None:
        self.refused = ""
        self._reach = reach

    async def report(self, member: Member, signals: InstanceSignals | None, adapters: WantedAdapters) -> ReportAnswer:
        """While Fleet is away the report is lost: the next heartbeat says it again."""
        answer: ReportAnswer | None = await self._call("report", member, signals, adapters)
        return ReportAnswer(cache_known=False) if answer is None else answer

    async def report_many(
        self, reports: tuple[InstanceReport, ...], beats: tuple[Beat, ...]
    ) -> dict[str, ReportAnswer] | None:
        """None while Fleet is away, and nothing was heard."""
        answers: dict[str, ReportAnswer] | None = await self._call("report_many", reports, beats)
        return answers

    async def sync(self, report: GatewayReport, patience_s: float = 0.0) -> FleetNews | None:
        """What is newer than is known; None while Fleet is away. patience_s: for which nothing new is waited for."""
        news: FleetNews | None = await self._call("sync", report, patience_s)
        return news

    async def state(self, plans: tuple[PoolPlan, ...] = (), events: tuple[FleetEvent, ...] = ()) -> FleetState | None:
        """plans, events: the caller's, for gateways to show. None while Fleet is away."""
        state: FleetState | None = await self._call("state", plans, events)
        return state

    async def forget(self, instance_id: str) -> bool:
        """Whether Fleet has heard it."""
        return bool(await self._call("forget", instance_id))

    async def begin_adapters(self, pool: str, holder: str) -> WantedAdapters | None:
        """None while Fleet is away, too."""
        wanted: WantedAdapters | None = await self._call("begin_adapters", pool, holder)
        return wanted

    async def want_adapter(self, pool: str, name: str, load: bytes) -> bool:
        """False while Fleet is away, too."""
        return bool(await self._call("want_adapter", pool, name, load))

    async def end_adapters(self, pool: str, holder: str) -> bool:
        """Whether Fleet has heard it; if not, the lease ends by itself."""
        return bool(await self._call("end_adapters", pool, holder))

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._reach(FLEET).call(method, *arguments)
        except RefusedFormError as error:
            if self.refused != str(error):
                logger.error("Fleet is of another version: %s", error)
            self.refused = str(error)
            return None
        except (CallError, TimeoutError):
            return None
        self.refused = ""
        return answer
