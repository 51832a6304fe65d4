"""Ray and the actors of one deployment: starts them in order, and stops every one of them."""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from instances.instance_actor import InstanceActor, InstanceSpec
from router.actor_by_name import FLEET, NAMESPACE, REBALANCER
from router.config import DualMapConfig
from router.fleet import Fleet
from router.fleet_client import FleetClient
from router.gateway_actor import GatewayActor
from router.membership import Member, MemberState
from router.rebalancer import Rebalancer

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
FIRST_ANSWER_S = 3.0  # what a running instance may take to answer for the first time, its actor's start included
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large passes through Ray


class ClusterError(Exception):
    """The deployment could not be started; the message says what and why, for the user to read."""


class Cluster:
    """say: is told each step, for a person to read."""

    def __init__(self, config: DualMapConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._fleet: Any = None
        self._rebalancer: Any = None
        self._gateway: Any = None
        self._instances: dict[str, Any] = {}

    def start_instances(self) -> None:
        """Start Ray, the background actors and the instances; returns when every simulated one is ready.
        Raises ClusterError."""
        settings = self._config.gateway
        _check_free(settings.host, settings.port)
        _check_free(settings.admin_host, settings.admin_port)
        self._say("starting Ray")
        self._start_ray()
        specs = instance_specs(self._config)
        self._fleet = _actor(Fleet, FLEET, tuple(spec.instance_id for spec in specs))
        self._rebalancer = _actor(Rebalancer, REBALANCER)
        for spec in specs:
            self._instances[spec.instance_id] = _actor(InstanceActor, spec.instance_id, spec, FleetClient().report)
        self._await_instances(specs)

    def start_gateway(self, config: DualMapConfig) -> tuple[int, int, int]:
        """Returns port, admin port and process id once it serves. Raises ClusterError."""
        gateway = _actor(GatewayActor, "gateway-0", "gateway-0", config)
        self._gateway = gateway
        try:
            ready: tuple[int, int, int] = ray.get(gateway.ready.remote(), timeout=START_TIMEOUT_S)
        except RayTaskError as error:
            settings = config.gateway
            raise ClusterError(
                f"cannot listen on {settings.host}:{settings.port} and {settings.admin_host}:{settings.admin_port}:"
                f" {error.cause}"
            ) from None
        except RayError as error:
            raise ClusterError(f"the gateway did not start: {error}") from None
        return ready

    def stop_gateway(self) -> None:
        """Running answers end first, as long as configured."""
        if self._gateway is not None:
            gateway, self._gateway = self._gateway, None
            _settle([gateway.stop.remote()], self._config.gateway.drain_s + STOP_TIMEOUT_S)
            ray.kill(gateway)

    def members(self) -> list[Member]:
        return [state[0] for state in ray.get([actor.state.remote() for actor in self._instances.values()])]

    def stop(self) -> None:
        """Leaves no process behind; may be called at any time, also twice."""
        if not ray.is_initialized():
            return
        self.stop_gateway()
        _settle([actor.stop.remote() for actor in self._instances.values()], STOP_TIMEOUT_S)
        for actor in (*self._instances.values(), self._rebalancer, self._fleet):
            if actor is not None:
                ray.kill(actor)
        self._instances.clear()
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
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"cannot start or reach Ray: {error}") from None
        finally:
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)

    def _await_instances(self, specs: list[InstanceSpec]) -> None:
        """Simulated instances must come up; external ones may come later, and are said to be missing."""
        watched = {s.instance_id: self._instances[s.instance_id].first_state.remote() for s in specs if not s.command}
        own = [spec.instance_id for spec in specs if spec.command]
        for ready, instance_id in enumerate(own, start=1):
            member, error = _await_ready(self._instances[instance_id])
            if member.state is not MemberState.READY:
                raise ClusterError(f"{instance_id} did not start: {error}")
            self._say(f"simulated instances ready: {ready} of {len(own)}")
        _settle(list(watched.values()), FIRST_ANSWER_S)
        for instance_id, answered in watched.items():
            if not ray.wait([answered], timeout=0)[0]:
                self._say(f"{instance_id} does not answer; it will be used as soon as it does")


def instance_specs(config: DualMapConfig) -> list[InstanceSpec]:
    """Ids stay the same from run to run: they are what the rings hash."""
    simulate = config.simulate
    capacity = simulate.capacity
    command = (
        *(sys.executable, "-m", "instances.sim_cli", "--port", "0", "--model", simulate.model),
        *("--prefill-tokens-per-s", str(capacity.prefill_tokens_per_s)),
        *("--kv-tokens", str(capacity.kv_tokens)),
        *("--max-num-seqs", str(capacity.max_running)),
        *("--max-num-batched-tokens", str(simulate.max_num_batched_tokens)),
    )
    log_of = partial(config.log_dir.absolute().joinpath)
    simulated = [InstanceSpec(f"sim-{i}", capacity, log_of(f"sim-{i}.log"), command) for i in range(simulate.count)]
    external = [
        InstanceSpec(i.id, i.capacity, log_of(f"{i.id}.log"), host=i.address[0], port=i.address[1])
        for i in config.instances
    ]
    return simulated + external


def _check_free(host: str, port: int) -> None:
    """Spares the user the start of everything else. Raises ClusterError; the gateway itself may still find it taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ClusterError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _actor(cls: type, name: str, *args: Any) -> Any:
    """Restarted whenever it dies; a call that was under way is not repeated. Raises ClusterError."""
    options = {"name": name, "num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}
    try:
        return ray.remote(cls).options(**options).remote(*args)
    except ValueError as error:  # the name is taken
        raise ClusterError(f"another deployment runs on this Ray cluster: {error}") from None


def _await_ready(actor: Any) -> tuple[Member, str]:
    """The instance's state once it is ready, or has failed to start."""
    try:
        state: tuple[Member, str] = ray.get(actor.first_state.remote(), timeout=START_TIMEOUT_S)
    except RayError as error:
        raise ClusterError(f"an instance's actor did not start: {error}") from None
    return state


def _settle(calls: list[Any], timeout_s: float) -> None:
    """Wait for the calls; one that fails has nothing left to do."""
    ray.wait(calls, num_returns=len(calls), timeout=timeout_s) if calls else None
