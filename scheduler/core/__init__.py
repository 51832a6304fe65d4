"""The core: one gate for all events, and what each kind of them does."""

from dualmap.scheduler.core.gate import Scheduler

__all__ = ["Scheduler"]
