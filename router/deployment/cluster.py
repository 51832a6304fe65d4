"""Ray and the actors of one deployment: starts them in order, and stops every one of them."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from dualmap.instances.server.vllm_command import NoVllmError
from dualmap.instances.watcher.watcher import FirstLook
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import PlacedSpec, own_specs, scaled_prefix
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.actors import START_TIMEOUT_S, ClusterError, start_actor, told
from dualmap.router.deployment.external_instances import ExternalInstances
from dualmap.router.deployment.gateways import Gateways
from dualmap.router.deployment.own_instances import OwnInstances, cluster_resources
from dualmap.router.deployment.ray_access import why_not_joined
from dualmap.router.deployment.scaled_pools import ScaledPools
from dualmap.router.deployment.tell_events import TellEvents
from dualmap.router.deployment.watched_instances import WatchedInstances
from dualmap.router.fleet.actor import Fleet
from dualmap.router.fleet.actor_by_name import FLEET, NAMESPACE, REBALANCER, autoscaler_name
from dualmap.router.fleet.rebalancer import Rebalancer
from dualmap.router.observe.log_setup import LogFile
from dualmap.router.scaling.autoscaler import Autoscaler
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.scaler import Scaled
from dualmap.scheduler.fleet.scaling_config import ScalingConfig

PLACEMENT_TIMEOUT_S = 600.0  # of a placement group: a node may have to be added first
LOCAL_PLACEMENT_TIMEOUT_S = 20.0  # nothing will be added to this machine, but a busy one takes its time
PLACE_POLL_S = 0.05
SCALING_INTERVAL_S = 0.5
FIRST_LOOK_S = 5.0  # what a running instance may take to answer for the first time
MISSING_SAID = 8  # instances
LOCAL_HOST = "127.0.0.1"  # of what runs beside us; elsewhere a node is reached at its own address
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large passes through Ray


class Cluster:
    """say: is told each step, for a person to read. events: what happens to the fleet, which is said as well."""

    def __init__(self, config: DualMapConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._fleet: Any = None
        self._rebalancer: Any = None
        self._gateways = Gateways(config, say)
        local = config.ray_address is None
        placement_timeout_s = LOCAL_PLACEMENT_TIMEOUT_S if local else PLACEMENT_TIMEOUT_S
        self._instances = OwnInstances(LOCAL_HOST if local else None, placement_timeout_s)
        self._scaled: ScaledPools | None = None
        self._external: ExternalInstances | None = None
        self._watched = WatchedInstances()
        self.events = TellEvents(say)

    def start_instances(self) -> None:
        """Start Ray, the background actors and the instances; returns when all that are started for us are ready.
        Raises ClusterError."""
        self._say("starting Ray")
        self._start_ray()
        try:
            gpus = cluster_resources().get("GPU", 0.0)
            specs = own_specs(self._config, gpus)
            self._external = ExternalInstances(self._config, self._watched, self._say)
        except NoVllmError as error:
            raise ClusterError(str(error)) from None
        except ImportError as error:
            raise ClusterError(f"discovery needs more packages, pip install 'dualmap[kubernetes]': {error}") from None
        ids = (*(placed.spec.instance_id for placed in specs), *self._external.ids)
        configs = {name: pool.scheduler for name, pool in self._config.all_pools().items()}
        logs, path = self._config.logs, self._config.log_dir.absolute() / "fleet.log"
        self._fleet = start_actor(Fleet, FLEET, ids, configs, partial(LogFile, path, FLEET, logs.format, logs.level))
        self._rebalancer = start_actor(Rebalancer, REBALANCER)
        self._start_own(specs)
        self._scaled = ScaledPools(self._config, self._instances, gpus, self._say)
        for name in configs:
            here = [placed.spec.instance_id for placed in specs if placed.spec.pool == name]
            self._scaled.add(name, here, self._start_autoscaler(name))
        self._watched.step()
        self._await_instances(specs)
        self._await_watched()
        self.events.instances_known()

    def _start_autoscaler(self, pool_name: str) -> Any:
        pool = self._config.all_pools()[pool_name]
        prefix = scaled_prefix(pool_name, pool)
        scaled = Scaled(pool_name, prefix, pool.scaling or ScalingConfig(), automatic=pool.scaling is not None)
        name = autoscaler_name(pool_name)
        return start_actor(Autoscaler, name, scaled, self._config.log_dir.absolute() / f"{name}.log")

    def look_after(self, stop: threading.Event, file: ConfigFile) -> None:
        """Until `stop`: start and stop instances as the Autoscalers say, follow those that run elsewhere, and take over
        what changes in the file. What happens to the fleet is said."""
        with suppress(RayError):
            self.events.begin()
        while not stop.wait(SCALING_INTERVAL_S):
            config = file.news()
            if config is not None and self._scaled is not None and self._external is not None:
                self._scaled.take_over(config)
                self._external.config = config
            if file.reloads.applied or file.reloads.refused:
                self._gateways.reconfigure(file)
            self._gateways.round()
            if self._scaled is not None and self._external is not None:
                with suppress(RayError):  # Ray's head, or Fleet, is away: again in the next round
                    self._external.round()
                self._scaled.round()
            with suppress(RayError):
                self._watched.note(self.events.round())

    def start_gateway(self, config: DualMapConfig) -> tuple[int, int, int]:
        """Start all gateways. Returns port, admin port and process id of the first, once they serve.
        Raises ClusterError."""
        return self._gateways.start(config)

    def stop_gateway(self) -> None:
        """All of them. Running answers end first, as long as configured."""
        self._gateways.stop()

    def members(self) -> list[Member]:
        """Of all instances, as their actors know them."""
        return [state[0] for state in ray.get([actor.state.remote() for actor in self._instances.actors()])]

    def stop(self) -> None:
        """Leaves no process behind; may be called at any time, also twice."""
        if self._external is not None:
            self._external.stop()
        if not ray.is_initialized():
            return
        self.stop_gateway()
        self._watched.stop()
        self._instances.stop()
        for actor in (*(self._scaled.actors() if self._scaled else ()), self._rebalancer, self._fleet):
            if actor is not None:
                ray.kill(actor)
        ray.shutdown()

    def _start_ray(self) -> None:
        local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                address=self._config.ray_address or "local",
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if self._config.ray_address else local),
            )
        except Exception as error:  # a bare one where a busy machine takes longer than Ray waits
            address = self._config.ray_address
            why = "" if address is None else f"; {why_not_joined(address)}"
            raise ClusterError(f"cannot start or reach Ray: {told(error)}{why}") from None
        finally:
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)

    def _start_own(self, specs: list[PlacedSpec]) -> None:
        """Returns once each has a place and its actor is made. Raises ClusterError."""
        for placed in specs:
            self._instances.add(placed)
        ids = {placed.spec.instance_id for placed in specs}
        while not self._instances.step(ids):
            time.sleep(PLACE_POLL_S)
        for instance_id, why in self._instances.failed.items():
            raise ClusterError(f"{instance_id} cannot be started: {why}")

    def _await_instances(self, specs: list[PlacedSpec]) -> None:
        """Those of ours must come up."""
        for ready, placed in enumerate(specs, start=1):
            instance_id = placed.spec.instance_id
            member, error = _await_ready(self._instances.actor(instance_id), placed.spec.start_timeout_s)
            if member.state is not MemberState.READY:
                raise ClusterError(f"{instance_id} did not start: {error}")
            self._say(f"{placed.kind} instances ready: {ready} of {len(specs)}")

    def _await_watched(self) -> None:
        """Those that run on their own may come up later; who is missing is said, and why."""
        try:
            looks = self._watched.first_looks(FIRST_LOOK_S, START_TIMEOUT_S)
        except RayError as error:
            raise ClusterError(f"the Watcher did not start: {told(error)}") from None
        if looks:
            self._say(seen_first(looks))


def seen_first(looks: Mapping[str, FirstLook]) -> str:
    """A line: how many instances are ready, and why others are not."""
    missing = [f"{look.url}: {look.reason or 'no answer yet'}" for look in looks.values() if not look.ready]
    line = f"{len(looks) - len(missing)} of {len(looks)} instances ready"
    if not missing:
        return line
    more = f"; and {len(missing) - MISSING_SAID} more" if len(missing) > MISSING_SAID else ""
    return f"{line}: {'; '.join(missing[:MISSING_SAID])}{more}"


def _await_ready(actor: Any, start_timeout_s: float) -> tuple[Member, str]:
    """The instance's state once it is ready, or has failed to start."""
    try:
        state: tuple[Member, str] = ray.get(actor.first_state.remote(), timeout=START_TIMEOUT_S + start_timeout_s)
    except RayError as error:
        raise ClusterError(f"an instance's actor did not start: {told(error)}") from None
    return state
