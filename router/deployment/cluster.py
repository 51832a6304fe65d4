"""The actors of one deployment: starts them in order, and stops every one of them."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from dualmap.instances.server.vllm_command import NoVllmError
from dualmap.instances.watcher.first_look import FirstLook
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import PlacedSpec, own_specs, scaled_prefix
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.actor_classes import AUTOSCALER_CLASS, FLEET_CLASS, REBALANCER_CLASS
from dualmap.router.deployment.actors import START_TIMEOUT_S, ClusterError, told
from dualmap.router.deployment.external_instances import ExternalInstances
from dualmap.router.deployment.gateways import Gateways
from dualmap.router.deployment.hear_gateways import hear_gateways
from dualmap.router.deployment.instances import Instances, NoInstances
from dualmap.router.deployment.remembered_adapters import RememberedAdapters
from dualmap.router.deployment.runtime import runtime_of
from dualmap.router.deployment.scaled_pools import ScaledPools
from dualmap.router.deployment.tell_events import TellEvents
from dualmap.router.deployment.watched_instances import WatchedInstances
from dualmap.router.fleet.client import TIMEOUT_S
from dualmap.router.observe.log_setup import ProcessLog
from dualmap.router.reach.names import FLEET, REBALANCER, autoscaler_name
from dualmap.router.reach.reach import CallError, Owned
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState
from dualmap.scheduler.fleet.scaler import Scaled
from dualmap.scheduler.fleet.scaling_config import ScalingConfig

PLACE_POLL_S = 0.05
SCALING_INTERVAL_S = 0.5
FIRST_LOOK_S = 5.0  # what a running instance may take to answer for the first time
MISSING_SAID = 8  # instances


class Cluster:
    """say: is told each step, for a person to read. events: what happens to the fleet, which is said as well."""

    def __init__(self, config: DualMapConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._runtime = runtime_of(config, say)
        self._fleet: Owned | None = None
        self._rebalancer: Owned | None = None
        self._gateways = Gateways(config, self._runtime, say)
        self._instances: Instances = NoInstances()
        self._scaled: ScaledPools | None = None
        self._external: ExternalInstances | None = None
        self._watched = WatchedInstances(self._runtime)
        self._adapters = RememberedAdapters()
        self.events = TellEvents(say if not config.logs.form.shown else _say_nothing)

    def start_instances(self) -> None:
        """Start what runs actors, the background actors and the instances; returns when all that are started for us are
        ready. Raises ClusterError."""
        self._runtime.start()
        self._gateways.prepare()
        self._instances = self._runtime.instances()
        gpus = self._runtime.gpus()
        try:
            specs = own_specs(self._config, gpus)
            self._external = ExternalInstances(self._config, self._watched, self._say, self._fleet_state)
        except NoVllmError as error:
            raise ClusterError(str(error)) from None
        except ImportError as error:
            raise ClusterError(f"discovery needs more packages, pip install 'dualmap[kubernetes]': {error}") from None
        ids = (*(placed.spec.instance_id for placed in specs), *self._external.ids)
        configs = {name: pool.scheduler for name, pool in self._config.all_pools().items()}
        open_log = partial(ProcessLog, self._config.log_dir.absolute(), FLEET, self._config.logs.form, True)
        self._fleet = self._runtime.start_actor(FLEET_CLASS, FLEET, ids, configs, open_log)
        self._watched.fleet = self.events.fleet = self._adapters.fleet = self._fleet
        self._rebalancer = self._runtime.start_actor(REBALANCER_CLASS, REBALANCER)
        if not self._config.gateway.count:
            hear_gateways(self._fleet_state)
        self._start_own(specs)
        self._scaled = ScaledPools(self._config, self._instances, gpus, self._say)
        for name in configs:
            here = [placed.spec.instance_id for placed in specs if placed.spec.pool == name]
            self._scaled.add(name, here, self._start_autoscaler(name))
        self._watched.step()
        self._await_instances(specs)
        self._await_watched()
        self.events.instances_known()

    def _fleet_state(self) -> FleetState:
        """Raises CallError."""
        assert self._fleet is not None
        state: FleetState = self._fleet.call("state").result(TIMEOUT_S)
        return state

    def _start_autoscaler(self, pool_name: str) -> Owned:
        pool = self._config.all_pools()[pool_name]
        scaling = pool.scaling or ScalingConfig()
        scaled = tuple(
            Scaled(
                pool_name,
                scaled_prefix(pool_name, pool, role),
                scaling.of_role(role),
                automatic=pool.scaling is not None,
                role=role,
            )
            for role in pool.scaled_roles
        )
        name = autoscaler_name(pool_name)
        path = self._config.log_dir.absolute() / f"{name}.log" if self._config.logs.form.written else None
        return self._runtime.start_actor(AUTOSCALER_CLASS, name, scaled, path, self._runtime.reach)

    def look_after(self, stop: threading.Event, file: ConfigFile) -> None:
        """Until `stop`: start and stop instances as the Autoscalers say, follow those that run elsewhere, and take over
        what changes in the file. What happens to the fleet is said."""
        with suppress(CallError):
            self._watched.note(self.events.begin())
        while not stop.wait(SCALING_INTERVAL_S):
            if self._runtime.is_lost:
                self._say("Ray has ended, and with it all that this command has started")
                os._exit(1)
            config = file.news()
            if config is not None and self._scaled is not None and self._external is not None:
                self._scaled.take_over(config)
                self._external.config = config
            if file.reloads.applied or file.reloads.refused:
                self._gateways.reconfigure(file)
            self._gateways.round()
            if self._scaled is not None and self._external is not None:
                self._external.roles = self._scaled.roles()
                with suppress(CallError):  # Ray's head, or Fleet, is away: again in the next round
                    self._external.round()
                self._scaled.round()
            with suppress(CallError):
                members = self.events.round()
                self._watched.note(members)
                self._forget_strangers(members)
            self._adapters.round()

    def _forget_strangers(self, members: Iterable[Member]) -> None:
        """Lost ones of which gateways have told that knew another Fleet, and that are not of this deployment by now."""
        assert self._external is not None
        for member in members:
            known = member.instance_id in self._instances or self._external.may_know(member)
            if member.state is MemberState.LOST and not known:
                assert self._fleet is not None
                self._fleet.call("forget", member.instance_id)  # again in the next round, should it not be heard

    def start_gateway(self, config: DualMapConfig) -> tuple[int, int, int]:
        """Start all gateways. Returns port, admin port and process id of the first, once they serve.
        Raises ClusterError."""
        return self._gateways.start(config)

    def stop_gateway(self) -> None:
        """All of them. Running answers end first, as long as configured."""
        self._gateways.stop()

    def members(self) -> list[Member]:
        """Of all instances, as their actors know them."""
        calls = [actor.call("state") for actor in self._instances.actors()]
        return [call.result()[0] for call in calls]

    def stop(self) -> None:
        """Leaves no process behind; may be called at any time, also twice."""
        if self._external is not None:
            self._external.stop()
        if not self._runtime.runs:
            return
        self.stop_gateway()
        self._watched.stop()
        self._instances.stop()
        for actor in (*(self._scaled.actors() if self._scaled else ()), self._rebalancer, self._fleet):
            if actor is not None:
                actor.kill()
        self._runtime.stop()

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
        except CallError as error:
            raise ClusterError(f"the Watcher did not start: {told(error)}") from None
        if looks:
            self._say(seen_first(looks))


def _say_nothing(line: str) -> None:
    """Fleet's process shows it."""


def seen_first(looks: Mapping[str, FirstLook]) -> str:
    """A line: how many instances are ready, and why others are not."""
    missing = [f"{look.url}: {look.reason or 'no answer yet'}" for look in looks.values() if not look.ready]
    line = f"{len(looks) - len(missing)} of {len(looks)} instances ready"
    if not missing:
        return line
    more = f"; and {len(missing) - MISSING_SAID} more" if len(missing) > MISSING_SAID else ""
    return f"{line}: {'; '.join(missing[:MISSING_SAID])}{more}"


def _await_ready(actor: Owned, start_timeout_s: float) -> tuple[Member, str]:
    """The instance's state once it is ready, or has failed to start."""
    try:
        state: tuple[Member, str] = actor.call("first_state").result(START_TIMEOUT_S + start_timeout_s)
    except CallError as error:
        raise ClusterError(f"an instance's actor did not start: {told(error)}") from None
    return state
