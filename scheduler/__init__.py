"""The sans-IO core: events in, commands out, time passed in. Imports the standard library and xxhash only."""

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import InstanceCapacity
from dualmap.scheduler.request import Request

__all__ = ["InstanceCapacity", "Request", "Scheduler", "SchedulerConfig"]
