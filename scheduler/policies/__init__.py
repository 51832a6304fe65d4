"""DualMap and the policies it is compared with, one file each, behind the interface of scheduler/placement.py."""

from scheduler.config import SchedulerConfig
from scheduler.holders import Holders
from scheduler.load_order import LoadOrder
from scheduler.placement import Policy
from scheduler.policies.dualmap import DualMap
from scheduler.policies.least_loaded import LeastLoaded
from scheduler.policies.round_robin import RoundRobin


def make_policy(config: SchedulerConfig, holders: Holders, loads: LoadOrder) -> Policy:
    match config.policy:
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded()
        case _:
            return DualMap(config, holders, loads)
