"""What waits at this gateway for an instance to come, pool by pool."""

from collections.abc import Mapping

from dualmap.router.requests.driven import Driven
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.held_requests import HeldWork


class HeldHere:
    def __init__(self, schedulers: Mapping[str, Scheduler], exchanges: Mapping[str, Driven]) -> None:
        """schedulers: by pool. exchanges: all requests, by id."""
        self._schedulers = schedulers
        self._exchanges = exchanges

    def holding(self) -> list[str]:
        """Pools whose requests wait while no instance can run them."""
        return [name for name, scheduler in self._schedulers.items() if scheduler.config.cold_start_timeout_s]

    def work(self) -> dict[str, HeldWork]:
        """By pool, of those where something is held."""
        return {name: scheduler.held.work() for name, scheduler in self._schedulers.items() if len(scheduler.held)}

    def stories(self, request_id: str) -> list[tuple[str, ...]]:
        """Of requests that are held, by the client's id or the gateway's."""
        name = request_id.encode("latin-1", "replace")
        return [
            scheduler.story(i)
            for scheduler in self._schedulers.values()
            for i in scheduler.held.ids()
            if request_id == i or self._exchanges[i].arrived.request_id == name
        ]
