"""Whether a gateway has requests. Nothing of a request's path says so: the gateway's ticks look."""

import asyncio
from collections.abc import Collection

from dualmap.scheduler.core import Scheduler


class AtWork(asyncio.Event):
    """Set while there are requests, or some came since the last look."""

    def __init__(self, schedulers: Collection[Scheduler], in_flight: Collection[str]) -> None:
        super().__init__()
        self._schedulers = schedulers
        self._in_flight = in_flight
        self._arrived = 0

    def look(self) -> None:
        arrived = sum(scheduler.stats.arrived for scheduler in self._schedulers)
        if self._in_flight or arrived != self._arrived:
            self._arrived = arrived
            self.set()
        else:
            self.clear()
