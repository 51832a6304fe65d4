"""DualMap and the policies it is compared with, one file each, behind the interface of scheduler/placement.py."""

from scheduler.config import SchedulerConfig
from scheduler.errors import ConfigError
from scheduler.placement import Policy
from scheduler.policies.dualmap import DualMap
from scheduler.policies.least_loaded import LeastLoaded
from scheduler.policies.round_robin import RoundRobin

POLICY_NAMES = ("dualmap", "round_robin", "least_loaded")


def make_policy(config: SchedulerConfig) -> Policy:
    """Raises ConfigError for an unknown name."""
    match config.policy:
        case "dualmap":
            return DualMap(config)
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded()
    raise ConfigError(f"policy must be one of {', '.join(POLICY_NAMES)}, not {config.policy!r}")
