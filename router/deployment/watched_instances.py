"""What the Watcher is to watch, in the process that owns it: told again whenever it does not know."""

from collections.abc import Iterable
from typing import Any

import ray

from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher.watcher import FirstLook, Watcher
from dualmap.router.deployment.own_instances import NO_CPU
from dualmap.router.fleet.actor_by_name import FLEET, WATCHER, actor_by_name
from dualmap.router.fleet.client import FleetClient
from dualmap.scheduler.fleet.member import Member

FORGET_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 5.0


class WatchedInstances:
    """The Watcher is made when there is something to watch."""

    def __init__(self) -> None:
        self._specs: dict[str, InstanceSpec] = {}
        self._number = 0  # of the list, which changes
        self._members: dict[str, Member] = {}  # as Fleet last told of them
        self._leaving: dict[str, int] = {}  # the number of the first list without it
        self._watcher: Any = None
        self._asked: Any = None  # the call that asks for the number known

    def __contains__(self, instance_id: str) -> bool:
        """Also while it leaves."""
        return instance_id in self._specs or instance_id in self._leaving

    def add(self, spec: InstanceSpec) -> None:
        self._specs[spec.instance_id] = spec
        self._number += 1

    def remove(self, instance_id: str) -> None:
        del self._specs[instance_id]
        self._members.pop(instance_id, None)
        self._number += 1
        self._leaving[instance_id] = self._number

    def note(self, members: Iterable[Member]) -> None:
        """What Fleet knows of instances: a Watcher goes on from there that is restarted while Fleet is, too."""
        self._members |= {member.instance_id: member for member in members if member.instance_id in self._specs}

    def tell(self, instance_id: str, order: str) -> None:
        """order: drain or undrain. Not waited for."""
        if self._watcher is not None:
            getattr(self._watcher, order).remote(instance_id)

    def step(self) -> None:
        """Have the Watcher know the list, and Fleet forget who has left; waits for no Watcher that is restarted. Raises
        RayError."""
        if self._watcher is None:
            if not self._specs:
                return
            self._watcher = ray.remote(Watcher).options(name=WATCHER, **NO_CPU).remote(FleetClient())
        if self._asked is None:
            self._asked = self._watcher.number.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        call, self._asked = self._asked, None
        known = ray.get(call)
        if known != self._number:
            self._tell_list()
        for instance_id, number in list(self._leaving.items()):
            if known >= number:
                ray.get(actor_by_name(FLEET).forget.remote(instance_id), timeout=FORGET_TIMEOUT_S)
                del self._leaving[instance_id]

    def first_looks(self, within_s: float, timeout_s: float) -> dict[str, FirstLook]:
        """Returns once the Watcher has looked at each, or that takes too long. timeout_s: for its start. Raises
        RayError."""
        if not self._specs:
            return {}
        self.step()
        ray.get(self._tell_list(), timeout=timeout_s)
        looks: dict[str, FirstLook] = ray.get(self._watcher.first_looks.remote(within_s), timeout=timeout_s)
        return looks

    def _tell_list(self) -> Any:
        """The call."""
        return self._watcher.watch.remote(self._number, tuple(self._specs.values()), tuple(self._members.values()))

    def stop(self) -> None:
        if self._watcher is not None:
            ray.wait([self._watcher.stop.remote()], timeout=STOP_TIMEOUT_S)
            ray.kill(self._watcher)
            self._watcher = None
