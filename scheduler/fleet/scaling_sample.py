"""What a scaling plan is made of: the instances of a pool at one moment, and what was counted since the last."""

from dualmap.scheduler.events import InstanceCapacity
from dualmap.scheduler.record import record


@record
class InstanceSample:
    """state: starting, ready or draining. Loads are of all gateways together (InstanceLoad). seconds_per_token: as
    learned; 0 where nobody said. saved_tokens: prompt tokens found cached there lately. since_s: it has been in this
    state for so long."""

    instance_id: str
    state: str
    capacity: InstanceCapacity
    seconds_per_token: float = 0.0
    prefilling_tokens: int = 0
    waiting_tokens: int = 0
    waiting: int = 0
    running: int = 0
    kv_tokens: int = 0
    saved_tokens: int = 0
    since_s: float = 0.0


@record
class ScalingSample:
    """at_s: on any monotonic clock. The counters are since the sample before: requests placed for the first time, their
    prefill work, first tokens within the objective, and those that were late or never came; answers whose tokens came
    at the pace of their objective, and slower ones."""

    at_s: float
    instances: tuple[InstanceSample, ...]
    arrived: int = 0
    arrived_work_tokens: int = 0
    slo_kept: int = 0
    slo_missed: int = 0
    tpot_kept: int = 0
    tpot_missed: int = 0
