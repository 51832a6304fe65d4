"""The gateways of a deployment: started, replaced one at a time without a lost request, and stopped."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from socket import gethostname

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.actor_classes import GATEWAY_CLASS
from dualmap.router.deployment.actors import START_TIMEOUT_S, STOP_TIMEOUT_S, ClusterError, settle, told
from dualmap.router.deployment.runtime import Runtime
from dualmap.router.gateway.wish import Wish
from dualmap.router.observe.prometheus_targets import write_targets
from dualmap.router.reach.reach import Call, CallError, Owned
from dualmap.scheduler.fleet.endpoint import host_port

GATEWAY = "gateway"


@dataclass(eq=False)
class Place:
    """Of one gateway. config: with its ports. starts: how many gateways there were before the one that is here.
    wish: a call that ends when the gateway is to be replaced."""

    name: str
    node_id: str
    config: DualMapConfig
    actor: Owned
    starts: int = 0
    wish: Call | None = None

    @property
    def gateway_id(self) -> str:
        return f"{self.name}.{self.starts}" if self.starts else self.name


@dataclass
class Change:
    """A gateway takes another's place. path: a call that tells where the old one gives what it listens with.
    start: another one, which takes over at a path. ready: a call that ends when the other serves. Raises ClusterError,
    CallError."""

    place: Place
    path: Call
    until: float
    start: Callable[[str], Owned]
    actor: Owned | None = None
    ready: Call | None = None

    def goes_on(self) -> bool:
        """Waits for nothing. False once the other serves."""
        if time.monotonic() > self.until:
            raise ClusterError("the one that was to follow did not start in time")
        if self.ready is None:
            if self.path.done():
                self._start_other(self.path.result())
            return True
        if not self.ready.done():
            return True
        self.ready.result()
        return False

    def _start_other(self, path: str) -> None:
        if not path:
            raise ClusterError("its port cannot be handed over")
        self.place.starts += 1
        self.actor = self.start(path)
        self.ready = self.actor.call("ready")


class Gateways:
    """runtime: runs them. say: is told each step, for a person to read."""

    def __init__(self, config: DualMapConfig, runtime: Runtime, say: Callable[[str], None]) -> None:
        self._config = config
        self._runtime = runtime
        self._say = say
        self._places: list[Place] = []
        self._due: deque[Place] = deque()
        self._change: Change | None = None
        self._leaving: list[tuple[Owned, Call, float]] = []  # actor, its last call, until when that may take

    def start(self, config: DualMapConfig) -> tuple[int, int, int]:
        """Start all. Returns port, admin port and process id of the first, once they serve. Raises ClusterError."""
        first: tuple[int, int, int] | None = None
        admin: list[str] = []
        settings = config.gateway
        for node_id in self._runtime.nodes(every=settings.on_every_node):
            for place in range(settings.count):
                port = settings.port if first is None else first[0]
                admin_port = settings.admin_port + place if settings.admin_port else 0
                chosen = settings.model_copy(update={"port": port, "admin_port": admin_port})
                ready = self._start_one(config.model_copy(update={"gateway": chosen}), node_id)
                first = first or ready
                admin.append(host_port(settings.admin_host, ready[1]))
        assert first is not None
        self._tell_prometheus(admin)
        return first

    def prepare(self) -> None:
        """The first ones are started before long."""
        for place in range(self._config.gateway.count):
            self._runtime.prepare(GATEWAY_CLASS, self._name(place))

    def _start_one(self, config: DualMapConfig, node_id: str) -> tuple[int, int, int]:
        name = self._name(len(self._places))
        actor = self._start_gateway(name, config, node_id)
        self._places.append(Place(name, node_id, config, actor))
        try:
            first_call = "listening" if self._runtime.joins else "ready"
            ready: tuple[int, int, int] = actor.call(first_call).result(START_TIMEOUT_S)
        except CallError as error:
            if error.cause is None:
                raise ClusterError(f"the gateway did not start: {told(error)}") from None
            settings = config.gateway
            raise ClusterError(
                f"cannot listen on {host_port(settings.host, settings.port)} and"
                f" {host_port(settings.admin_host, settings.admin_port)}: {error.cause}"
            ) from None
        return ready

    def _start_gateway(self, gateway_id: str, config: DualMapConfig, node_id: str, listeners_path: str = "") -> Owned:
        arguments = (gateway_id, config, self._runtime.reach, listeners_path)
        return self._runtime.start_actor(GATEWAY_CLASS, gateway_id, *arguments, node_id=node_id)

    def reconfigure(self, file: ConfigFile) -> None:
        configs = {name: pool.scheduler for name, pool in file.config.all_pools().items()}
        for place in self._places:
            place.actor.call("reconfigure", configs, file.config.limits, file.config.model_aliases, file.reloads)

    def round(self) -> None:
        """Replace those that are to be, one after the other; called all the time, and waits for nothing."""
        self._hear_wishes()
        self._end_left()
        if self._change is None and self._due:
            place = self._due.popleft()
            self._say(f"{place.name} is to be replaced")
            self._change = self._change_of(place)
        if self._change is None:
            return
        place, before = self._change.place, self._change.place.actor
        try:
            if self._change.goes_on():
                return
        except (ClusterError, CallError) as error:
            self._say(f"{place.name} stays as it is: {told(error)}")
            if self._change.actor is not None:
                self._change.actor.kill()
        else:
            assert self._change.actor is not None
            place.actor, place.wish = self._change.actor, None
            until = time.monotonic() + place.config.gateway.leave_s + STOP_TIMEOUT_S
            self._leaving.append((before, before.call("leave"), until))
        self._change = None

    def _change_of(self, place: Place) -> Change:
        def start(listeners_path: str) -> Owned:
            return self._start_gateway(place.gateway_id, place.config, place.node_id, listeners_path)

        return Change(place, place.actor.call("hand_over"), time.monotonic() + START_TIMEOUT_S, start)

    def _hear_wishes(self) -> None:
        for place in self._places:
            if place.wish is None:
                place.wish = place.actor.call("wish")
            elif place.wish.done():
                wish, place.wish = place.wish, None
                with suppress(CallError):  # it was killed, and is restarted
                    asked = self._places if wish.result() is Wish.ALL else [place]
                    self._due.extend(one for one in asked if one not in self._due)

    def _end_left(self) -> None:
        now = time.monotonic()
        for left in list(self._leaving):
            actor, call, until = left
            if call.done() or now > until:
                self._leaving.remove(left)
                actor.kill()

    def stop(self) -> None:
        """All of them. Running answers end first, as long as configured."""
        actors = list(self._actors())
        calls = [actor.call("stop") for actor in actors]
        if actors:
            with suppress(ClusterError):  # a directory that has gone meanwhile
                self._tell_prometheus([])
        settle(calls, self._config.gateway.drain_s + STOP_TIMEOUT_S)
        for actor in actors:
            actor.kill()
        self._places, self._change, self._leaving = [], None, []
        self._due.clear()

    def _actors(self) -> Iterator[Owned]:
        yield from (place.actor for place in self._places)
        yield from (actor for actor, _, _ in self._leaving)
        if self._change is not None and self._change.actor is not None:
            yield self._change.actor

    def _tell_prometheus(self, admin: list[str]) -> None:
        """Where the gateways' metrics are. Raises ClusterError."""
        path = self._config.gateway.prometheus_targets
        if path is not None:
            try:
                write_targets(path, admin)
            except OSError as error:
                raise ClusterError(f"gateway.prometheus_targets: {path} cannot be written: {error.strerror}") from None

    def _name(self, place: int) -> str:
        return f"{self._config.gateway.name or (gethostname() if self._runtime.joins else GATEWAY)}-{place}"
