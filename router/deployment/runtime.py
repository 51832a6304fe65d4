"""What runs the actors of a deployment: Ray, where servers are to be started or several machines share the work, else
processes of this machine (docs/decisions/0028-ray-where-it-has-something-to-place.md)."""

from collections.abc import Callable
from typing import Any, Protocol

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.runtime import uses_ray
from dualmap.router.deployment.instances import Instances
from dualmap.router.reach.names import namespace_of
from dualmap.router.reach.reach import Owned, Reach

HEAD_PATIENCE_S = 120.0  # for the Ray that starts beside a deployment for gateways of other hosts


class Runtime(Protocol):
    """reach: for actors, to find others. joins: Fleet runs on another host, and may be away at the start."""

    reach: Reach
    joins: bool

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped since."""

    @property
    def is_lost(self) -> bool:
        """What it runs on has ended, and it can stop nothing any more."""

    def start(self) -> None:
        """Raises ClusterError."""

    def start_actor(self, cls: str, name: str, *arguments: Any, node_id: str = "") -> Owned:
        """Restarted whenever it dies; a call that was under way is not repeated. cls: module:class. node_id: where;
        empty: anywhere. Raises ClusterError."""

    def prepare(self, cls: str, name: str) -> None:
        """An actor is started before long: have what takes time done by then."""

    def nodes(self, every: bool) -> list[str]:
        """Ids of the nodes for gateways, this one first."""

    def instances(self) -> Instances: ...

    def gpus(self) -> float:
        """Of all machines, taken or not."""

    def stop(self) -> None:
        """Leaves no process behind."""


def runtime_of(config: DualMapConfig, say: Callable[[str], None]) -> Runtime:
    if uses_ray(config):
        from dualmap.router.deployment.ray_runtime import RayRuntime  # Ray takes seconds to import

        patience_s = 0.0 if config.gateway.count else HEAD_PATIENCE_S
        return RayRuntime(config.ray_address, namespace_of(config.deployment), say, patience_s)
    from dualmap.router.deployment.local_runtime import LocalRuntime

    return LocalRuntime(config.log_dir.absolute() if config.logs.form.written else None, say)
