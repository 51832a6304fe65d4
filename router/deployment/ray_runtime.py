"""Ray as the runtime of a deployment: it is joined, or started on this machine."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dualmap.router.deployment.actor_classes import IN_BACKGROUND
from dualmap.router.deployment.actors import ClusterError, told
from dualmap.router.deployment.own_instances import NAME_TAKEN, NO_CPU, OwnInstances, cluster_resources
from dualmap.router.deployment.ray_access import await_cluster, listens, why_not_joined
from dualmap.router.deployment.ray_background import RayBackground
from dualmap.router.reach.names import class_of
from dualmap.router.reach.ray_reach import RayHandle, RayReach
from dualmap.router.reach.reach import Owned, Reach

PLACEMENT_TIMEOUT_S = 600.0  # of a placement group: a node may have to be added first
LOCAL_PLACEMENT_TIMEOUT_S = 20.0  # nothing will be added to this machine, but a busy one takes its time
LOCAL_HOST = "127.0.0.1"  # of what runs beside us; elsewhere a node is reached at its own address
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large passes through Ray


class RayRuntime:
    """address: of a cluster to join; None: one is started here. namespace: of this deployment's actors there. say: is
    told each step, for a person to read. patience_s: for how long the cluster may not be there yet."""

    joins = False

    def __init__(
        self, address: str | None, namespace: str, say: Callable[[str], None], patience_s: float = 0.0
    ) -> None:
        self._reach = RayReach(namespace)
        self.reach: Reach = self._reach
        self._address = address
        self._namespace = namespace
        self._say = say
        self._patience_s = patience_s
        self._background: RayBackground | None = None

    @property
    def runs(self) -> bool:
        return ray.is_initialized()

    @property
    def is_lost(self) -> bool:
        """Of a Ray that runs beside us and is started again by itself: it would keep us waiting for a minute."""
        return bool(self._patience_s and self._address) and not listens(self._address or "")

    def start(self) -> None:
        self._say("starting Ray")
        if self._address is not None:
            await_cluster(self._address, self._patience_s)
        local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                address=self._address or "local",
                namespace=self._namespace,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if self._address else local),
            )
        except Exception as error:  # a bare one where a busy machine takes longer than Ray waits
            why = "" if self._address is None else f"; {why_not_joined(self._address)}"
            raise ClusterError(f"cannot start or reach Ray: {told(error)}{why}") from None
        finally:
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
        with _name_taken():
            self._background = RayBackground()

    def start_actor(self, cls: str, name: str, *arguments: Any, node_id: str = "") -> Owned:
        if cls in IN_BACKGROUND:
            assert self._background is not None
            return self._background.make(cls, name, arguments)
        options: dict[str, Any] = {"name": name, **NO_CPU}
        if node_id:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
        with _name_taken():
            return RayHandle(ray.remote(class_of(cls)).options(**options).remote(*arguments))

    def prepare(self, cls: str, name: str) -> None:
        """Ray has processes in store."""

    def nodes(self, every: bool) -> list[str]:
        own: str = ray.get_runtime_context().get_node_id()
        if not every:
            return [own]
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        return [own, *(node_id for node_id in alive if node_id != own)]

    def instances(self) -> OwnInstances:
        if self._address is None:
            return OwnInstances(self._reach, LOCAL_HOST, LOCAL_PLACEMENT_TIMEOUT_S)
        return OwnInstances(self._reach, None, PLACEMENT_TIMEOUT_S)

    def gpus(self) -> float:
        return cluster_resources().get("GPU", 0.0)

    def stop(self) -> None:
        ray.shutdown()


@contextmanager
def _name_taken() -> Iterator[None]:
    """Raises ClusterError."""
    try:
        yield
    except ValueError as error:
        raise ClusterError(f"{NAME_TAKEN}: {error}") from None
