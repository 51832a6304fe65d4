"""The sans-IO core: events in, commands out, time passed in. Imports the standard library and xxhash only.

`Scheduler(SchedulerConfig()).handle(event, now)` returns the commands that the driver carries out. What `__all__` names
is the public interface; a policy of one's own is written to `Policy` and made known by `register_policy`.
"""

from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, RejectReason, TellOthers
from dualmap.scheduler.config import SchedulerConfig, policy_names
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.errors import ConfigError, ContractError, SchedulerError
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
    InstanceLost,
    LoadReported,
    MovesProposed,
    PrefillDone,
    PrefixDepths,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    ServedModel,
    SettingsChanged,
    StreamContinued,
    Tick,
)
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.placement import Placement, Policy
from dualmap.scheduler.policies import register_policy
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.role import Leg, Role
from dualmap.scheduler.snapshot import Move, Snapshot
from dualmap.scheduler.ttft_estimate import TtftEstimate

__all__ = [
    "Abort",
    "BlocksRemoved",
    "BlocksStored",
    "CacheCleared",
    "ChoiceReason",
    "Command",
    "ConfigError",
    "ContractError",
    "Dispatch",
    "Event",
    "FailStream",
    "FailureCause",
    "FirstToken",
    "GatewayLoads",
    "InstanceCapacity",
    "InstanceDraining",
    "InstanceJoined",
    "InstanceLoad",
    "InstanceLost",
    "InstanceView",
    "Leg",
    "LoadReported",
    "Move",
    "MovesProposed",
    "Placement",
    "Policy",
    "PrefillDone",
    "PrefixDepths",
    "Reject",
    "RejectReason",
    "Request",
    "RequestArrived",
    "RequestCancelled",
    "RequestFailed",
    "RequestFinished",
    "Role",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerError",
    "ServedElsewhere",
    "ServedModel",
    "SettingsChanged",
    "Snapshot",
    "StreamContinued",
    "TellOthers",
    "Tick",
    "TtftEstimate",
    "plan_rebalance",
    "policy_names",
    "register_policy",
]
