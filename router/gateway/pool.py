"""A pool of instances that serve the same models: rings, objective and books of its own."""

from collections.abc import Mapping
from dataclasses import replace

from dualmap.router.journal.writer import JournaledScheduler, JournalWriter
from dualmap.router.legs.connector import Connector
from dualmap.router.legs.nixl import Nixl
from dualmap.router.requests.core import Core
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import GatewayLoads, PrefixDepths


class Pool:
    """name: empty for the only one there is, or the first. core: where its events go. depths: that all gateways agreed
    on. connector: how its instances hand computed prompts over."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        journal: JournalWriter | None = None,
        connector: Connector | None = None,
    ) -> None:
        """journal: is told every event. connector: None: NIXL."""
        self.name = name
        self.scheduler = scheduler
        self.journal = journal
        self.core: Core = scheduler if journal is None else JournaledScheduler(scheduler, journal)
        self.connector: Connector = connector or Nixl()
        self.depths: PrefixDepths | None = None

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()

    def loads_of(self, loads: GatewayLoads, pool_of: Mapping[str, "Pool"]) -> GatewayLoads:
        """What concerns its own instances. pool_of: by instance."""
        return replace(
            loads,
            loads=tuple(load for load in loads.loads if pool_of.get(load.instance_id) is self),
            sent=tuple(sent for sent in loads.sent if pool_of.get(sent[0]) is self),
        )

    def attempt_of(self, dispatch: Dispatch) -> Attempt | None:
        """None where it is over already."""
        return self.scheduler.attempts.get(dispatch.request_id)

    def alternatives(self, dispatch: Dispatch) -> list[str]:
        """Other instances that were considered, the soonest first, as many as may be tried."""
        attempt = self.attempt_of(dispatch)
        if attempt is None:
            return []
        soonest = sorted(attempt.considered, key=lambda estimate: (estimate.total_s, estimate.instance_id))
        named = dict.fromkeys((*attempt.candidates, *(estimate.instance_id for estimate in soonest)))
        most = self.scheduler.config.max_attempts - 1
        return [instance_id for instance_id in named if instance_id != dispatch.instance_id][:most]
