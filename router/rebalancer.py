"""Rebalancer: plans moves off hot instances outside the gateway's process. It keeps no state; the gateway re-checks
each move."""

from scheduler.config import SchedulerConfig
from scheduler.rebalance import plan_rebalance
from scheduler.snapshot import Move, Snapshot


class Rebalancer:
    async def plan(self, snapshot: Snapshot, config: SchedulerConfig) -> tuple[Move, ...]:
        return tuple(plan_rebalance(snapshot, config))
