"""The connections to all instances, by instance."""

import asyncio
from collections.abc import Callable, Mapping, Set

from dualmap.router.http.instance_key import KEY_FILES
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.scheduler.events import Event, InstanceJoined
from dualmap.scheduler.fleet.endpoint import Endpoint


class InstanceConnections:
    """work: when the instances were last seen to work."""

    def __init__(self, limits: HttpLimits, clock: Callable[[], float]) -> None:
        self.work = InstanceWork()
        self.limits = limits
        self._clock = clock
        self._pools: dict[str, UpstreamPool] = {}
        self._key_changes = 0

    def to(self, instance_id: str) -> UpstreamPool:
        """Return the connections to an instance whose endpoint is set."""
        return self._pools[instance_id]

    def limit(self, limits: HttpLimits) -> None:
        """Set the limits that hold from now on."""
        self.limits = limits
        for pool in self._pools.values():
            pool.limits = limits

    def set_endpoints(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Take where instances are reached, by id; before the core learns of them."""
        loop = asyncio.get_running_loop()
        for instance_id, endpoint in endpoints.items():
            pool = self._pools.get(instance_id)
            if pool is None or pool.endpoint != endpoint:
                self._pools[instance_id] = UpstreamPool(loop, instance_id, endpoint, self.limits, self._clock)
                if pool is not None:
                    pool.close()

    def note_membership(self, event: Event) -> None:
        """What the core is told next: an instance that joins may be another version of its server."""
        if isinstance(event, InstanceJoined) and event.instance_id in self._pools:
            pool = self._pools[event.instance_id]
            pool.tells_ids = pool.derenders = True

    def forget(self, kept: Set[str]) -> None:
        """Forget the instances that are not among those kept; the core has lost them."""
        for instance_id in self._pools.keys() - kept:
            self._pools.pop(instance_id).close()
        self.work.forget(kept)

    def sweep(self, now: float) -> None:
        """Close what has been idle for long, and take over changed keys; called periodically."""
        KEY_FILES.look()
        changed = KEY_FILES.changes != self._key_changes
        self._key_changes = KEY_FILES.changes
        for pool in self._pools.values():
            pool.sweep(now)
            if changed:
                pool.renew_key()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
