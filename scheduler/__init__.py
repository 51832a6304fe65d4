"""The sans-IO core: events in, commands out, time passed in. Imports the standard library and xxhash only."""

from scheduler.config import SchedulerConfig
from scheduler.core import Scheduler
from scheduler.events import InstanceCapacity
from scheduler.request import Request

__all__ = ["InstanceCapacity", "Request", "Scheduler", "SchedulerConfig"]
