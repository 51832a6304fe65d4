"""The gateways of a deployment: started, replaced one at a time without a lost request, and stopped."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.actors import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    ClusterError,
    is_done,
    settle,
    start_actor,
    told,
)
from dualmap.router.gateway.gateway_actor import GatewayActor, Wish
from dualmap.router.observe.prometheus_targets import write_targets
from dualmap.scheduler.fleet.endpoint import host_port


@dataclass(eq=False)
class Place:
    """Of one gateway. config: with its ports. starts: how many gateways there were before the one that is here.
    wish: a call that ends when the gateway is to be replaced."""

    name: str
    node_id: str
    config: DualMapConfig
    actor: Any = None
    starts: int = 0
    wish: Any = None

    @property
    def gateway_id(self) -> str:
        return f"{self.name}.{self.starts}" if self.starts else self.name


@dataclass
class Change:
    """A gateway takes another's place. path: a call that tells where the old one gives what it listens with.
    ready: one that ends when the other serves. Raises ClusterError, RayError."""

    place: Place
    path: Any
    until: float
    actor: Any = None
    ready: Any = None

    def goes_on(self) -> bool:
        """Waits for nothing. False once the other serves."""
        if time.monotonic() > self.until:
            raise ClusterError("the one that was to follow did not start in time")
        if self.ready is None:
            if is_done(self.path):
                self._start(ray.get(self.path))
            return True
        if not is_done(self.ready):
            return True
        ray.get(self.ready)
        return False

    def _start(self, path: str) -> None:
        if not path:
            raise ClusterError("its port cannot be handed over")
        place = self.place
        place.starts += 1
        self.actor = _start_gateway(place, path)
        self.ready = self.actor.ready.remote()


class Gateways:
    """say: is told each step, for a person to read."""

    def __init__(self, config: DualMapConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._places: list[Place] = []
        self._due: deque[Place] = deque()
        self._change: Change | None = None
        self._leaving: list[tuple[Any, Any, float]] = []  # actor, its last call, until when that may take

    def start(self, config: DualMapConfig) -> tuple[int, int, int]:
        """Start all. Returns port, admin port and process id of the first, once they serve. Raises ClusterError."""
        first: tuple[int, int, int] | None = None
        admin: list[str] = []
        settings = config.gateway
        for node_id in _nodes(config):
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

    def _start_one(self, config: DualMapConfig, node_id: str) -> tuple[int, int, int]:
        place = Place(f"gateway-{len(self._places)}", node_id, config)
        place.actor = _start_gateway(place)
        self._places.append(place)
        try:
            ready: tuple[int, int, int] = ray.get(place.actor.ready.remote(), timeout=START_TIMEOUT_S)
        except RayTaskError as error:
            settings = config.gateway
            raise ClusterError(
                f"cannot listen on {host_port(settings.host, settings.port)} and"
                f" {host_port(settings.admin_host, settings.admin_port)}: {error.cause}"
            ) from None
        except RayError as error:
            raise ClusterError(f"the gateway did not start: {told(error)}") from None
        return ready

    def reconfigure(self, file: ConfigFile) -> None:
        configs = {name: pool.scheduler for name, pool in file.config.all_pools().items()}
        for place in self._places:
            place.actor.reconfigure.remote(configs, file.config.limits, file.config.model_aliases, file.reloads)

    def round(self) -> None:
        """Replace those that are to be, one after the other; called all the time, and waits for nothing."""
        self._hear_wishes()
        self._end_left()
        if self._change is None and self._due:
            place = self._due.popleft()
            self._say(f"{place.name} is to be replaced")
            self._change = Change(place, place.actor.hand_over.remote(), time.monotonic() + START_TIMEOUT_S)
        if self._change is None:
            return
        place, before = self._change.place, self._change.place.actor
        try:
            if self._change.goes_on():
                return
        except (ClusterError, RayError) as error:
            self._say(f"{place.name} stays as it is: {told(error)}")
            if self._change.actor is not None:
                ray.kill(self._change.actor)
        else:
            place.actor, place.wish = self._change.actor, None
            until = time.monotonic() + place.config.gateway.leave_s + STOP_TIMEOUT_S
            self._leaving.append((before, before.leave.remote(), until))
        self._change = None

    def _hear_wishes(self) -> None:
        for place in self._places:
            if place.wish is None:
                place.wish = place.actor.wish.remote()
            elif is_done(place.wish):
                wish, place.wish = place.wish, None
                with suppress(RayError):  # it was killed, and Ray restarts it
                    asked = self._places if ray.get(wish) is Wish.ALL else [place]
                    self._due.extend(one for one in asked if one not in self._due)

    def _end_left(self) -> None:
        now = time.monotonic()
        for left in list(self._leaving):
            actor, call, until = left
            if is_done(call) or now > until:
                self._leaving.remove(left)
                ray.kill(actor)

    def stop(self) -> None:
        """All of them. Running answers end first, as long as configured."""
        actors = list(self._actors())
        calls = [actor.stop.remote() for actor in actors]
        if actors:
            with suppress(ClusterError):  # a directory that has gone meanwhile
                self._tell_prometheus([])
        settle(calls, self._config.gateway.drain_s + STOP_TIMEOUT_S)
        for actor in actors:
            ray.kill(actor)
        self._places, self._change, self._leaving = [], None, []
        self._due.clear()

    def _actors(self) -> Iterator[Any]:
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


def _start_gateway(place: Place, listeners_path: str = "") -> Any:
    where = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    gateway_id = place.gateway_id
    return start_actor(GatewayActor, gateway_id, gateway_id, place.config, listeners_path, scheduling_strategy=where)


def _nodes(config: DualMapConfig) -> list[str]:
    """Ids of Ray nodes, ours first."""
    own: str = ray.get_runtime_context().get_node_id()
    if not config.gateway.on_every_node:
        return [own]
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [own, *(node_id for node_id in alive if node_id != own)]
