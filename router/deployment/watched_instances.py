"""What the Watcher is to watch, in the process that owns it: told again whenever it does not know."""

from collections.abc import Iterable

from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher.first_look import FirstLook
from dualmap.router.deployment.actor_classes import WATCHER_CLASS
from dualmap.router.deployment.actors import FORGET_TIMEOUT_S, settle
from dualmap.router.deployment.runtime import Runtime
from dualmap.router.fleet.client import FleetClient
from dualmap.router.reach.names import WATCHER
from dualmap.router.reach.reach import Call, Owned
from dualmap.scheduler.fleet.member import Member

STOP_TIMEOUT_S = 5.0


class WatchedInstances:
    """The Watcher is made when there is something to watch. runtime: runs it. fleet: has been started by then."""

    fleet: Owned | None = None

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._specs: dict[str, InstanceSpec] = {}
        self._number = 0  # of the list, which changes
        self._members: dict[str, Member] = {}  # as Fleet last told of them
        self._leaving: dict[str, int] = {}  # the number of the first list without it
        self._gone: dict[str, int] = {}  # incarnations of those that left
        self._watcher: Owned | None = None
        self._asked: Call | None = None  # the call that asks for the number known

    def __contains__(self, instance_id: str) -> bool:
        """Also while it leaves."""
        return instance_id in self._specs or instance_id in self._leaving

    def add(self, spec: InstanceSpec) -> None:
        self._specs[spec.instance_id] = spec
        self._number += 1

    def remove(self, instance_id: str) -> None:
        del self._specs[instance_id]
        if (member := self._members.pop(instance_id, None)) is not None:
            self._gone[instance_id] = member.incarnation
        self._number += 1
        self._leaving[instance_id] = self._number

    def note(self, members: Iterable[Member]) -> None:
        """What Fleet knows of instances: a Watcher goes on from there that is restarted while Fleet is, too. Not from
        one that has left and comes again, of which an answer may tell that was on its way when Fleet forgot it."""
        for member in members:
            instance_id = member.instance_id
            if instance_id in self._specs and member.incarnation > self._gone.get(instance_id, -1):
                self._members[instance_id] = member

    def tell(self, instance_id: str, order: str) -> None:
        """order: drain or undrain. Not waited for."""
        if self._watcher is not None:
            self._watcher.call(order, instance_id)

    def step(self) -> None:
        """Have the Watcher know the list, and Fleet forget who has left; waits for no Watcher that is restarted. Raises
        CallError."""
        if self._watcher is None:
            if not self._specs:
                return
            self._watcher = self._runtime.start_actor(WATCHER_CLASS, WATCHER, FleetClient(self._runtime.reach))
        if self._asked is None:
            self._asked = self._watcher.call("number")
        if not self._asked.done():
            return
        call, self._asked = self._asked, None
        known = call.result()
        if known != self._number:
            self._tell_list(self._watcher)
        for instance_id, number in list(self._leaving.items()):
            if known >= number:
                assert self.fleet is not None
                self.fleet.call("forget", instance_id).result(FORGET_TIMEOUT_S)
                del self._leaving[instance_id]

    def first_looks(self, within_s: float, timeout_s: float) -> dict[str, FirstLook]:
        """Returns once the Watcher has looked at each, or that takes too long. timeout_s: for its start. Raises
        CallError."""
        if not self._specs:
            return {}
        self.step()
        watcher = self._watcher
        assert watcher is not None
        self._tell_list(watcher).result(timeout_s)
        looks: dict[str, FirstLook] = watcher.call("first_looks", within_s).result(timeout_s)
        return looks

    def _tell_list(self, watcher: Owned) -> Call:
        return watcher.call("watch", self._number, tuple(self._specs.values()), tuple(self._members.values()))

    def stop(self) -> None:
        if self._watcher is not None:
            settle([self._watcher.call("stop")], STOP_TIMEOUT_S)
            self._watcher.kill()
            self._watcher = None
