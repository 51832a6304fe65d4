"""Fleet's process: a Ray actor around FleetCore, which it tells the time."""

import time

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.fleet.messages import FleetNews, FleetState, GatewayReport, PoolPlan
from dualmap.scheduler.fleet.signals import InstanceSignals


class Fleet:
    """Each method is FleetCore's of the same name. What it tells bears numbers above those of any Fleet before it."""

    def __init__(self, expected: tuple[str, ...], configs: dict[str, SchedulerConfig]) -> None:
        self._core = FleetCore(expected, configs, time.monotonic(), first_number=time.time_ns())

    async def report(self, member: Member, signals: InstanceSignals | None = None) -> bool:
        return self._core.report(member, signals, time.monotonic())

    async def forget(self, instance_id: str) -> bool:
        """True, for who must know that it was heard."""
        self._core.forget(instance_id)
        return True

    async def sync(self, report: GatewayReport) -> FleetNews:
        return self._core.sync(report, time.monotonic())

    async def state(self, plan: PoolPlan | None = None) -> FleetState:
        return self._core.state(time.monotonic(), plan)
