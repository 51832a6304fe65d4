"""What a scaling plan is made of: the instances of a pool at one moment, and what was counted since the last."""

from dataclasses import KW_ONLY

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.record import record


@record
class InstanceSample:
    """state: starting, ready or draining. load: of all gateways together. since_s: it has been in this state for so
    long."""

    state: str
    capacity: InstanceCapacity
    load: InstanceLoad
    _: KW_ONLY
    since_s: float = 0.0

    @property
    def instance_id(self) -> str:
        return self.load.instance_id


@record
class ScalingSample:
    """at_s: on any monotonic clock. counted: since the sample before. held: what waits for an instance to come.
    quiet_s: for how long nothing has come, run or waited."""

    at_s: float
    instances: tuple[InstanceSample, ...]
    counted: PoolTotals = PoolTotals()
    _: KW_ONLY
    held: HeldWork = HeldWork()
    quiet_s: float = 0.0
