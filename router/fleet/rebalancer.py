"""Rebalancer: plans moves off hot instances outside the gateway's process. It keeps no state; the gateway re-checks
each move."""

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.snapshot import Move, Snapshot


class Rebalancer:
    async def plan(self, snapshot: Snapshot, config: SchedulerConfig) -> tuple[Move, ...]:
        return tuple(plan_rebalance(snapshot, config))
