"""Processes of this machine as the runtime of a deployment: one for each gateway, one for all else."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dualmap.router.deployment.actor_classes import AUTOSCALER_CLASS, FLEET_CLASS, REBALANCER_CLASS, WATCHER_CLASS
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.instances import NoInstances
from dualmap.router.local.children import Children, LocalHandle
from dualmap.router.local.local_reach import BACKGROUND, LocalReach
from dualmap.router.reach.reach import Reach

IN_BACKGROUND = (FLEET_CLASS, REBALANCER_CLASS, AUTOSCALER_CLASS, WATCHER_CLASS)
LOG = "processes.log"  # what processes print, where they have no log file, or not yet


class LocalRuntime:
    """log_dir: gets what processes print; None: it goes to standard error. say: is told when one is started again; from
    another thread."""

    reach: Reach

    def __init__(self, log_dir: Path | None, say: Callable[[str], None]) -> None:
        self._log_path = log_dir and log_dir / LOG
        self._say = say
        self._children: Children | None = None

    @property
    def runs(self) -> bool:
        return self._children is not None

    def start(self) -> None:
        try:
            self._children = Children(self._log_path, self._say)
            self._children.start(BACKGROUND, _modules(IN_BACKGROUND))
        except OSError as error:
            raise ClusterError(f"cannot start processes: {error}") from None
        self.reach = LocalReach(self._children.folder)

    def start_actor(self, cls: str, name: str, *arguments: Any, node_id: str = "") -> LocalHandle:
        children, process = self._known(), _process_of(cls, name)
        self.prepare(cls, name)
        children.make(process, cls, name, arguments)
        return LocalHandle(children, process, name, only=process != BACKGROUND)

    def prepare(self, cls: str, name: str) -> None:
        try:
            self._known().start(_process_of(cls, name), _modules((cls,)))
        except OSError as error:
            raise ClusterError(f"{name} did not start: {error}") from None

    def nodes(self, every: bool) -> list[str]:
        return [""]

    def instances(self) -> NoInstances:
        return NoInstances()

    def gpus(self) -> float:
        return 0.0

    def stop(self) -> None:
        children, self._children = self._children, None
        if children is not None:
            children.close()

    def _known(self) -> Children:
        assert self._children is not None
        return self._children


def _process_of(cls: str, name: str) -> str:
    return BACKGROUND if cls in IN_BACKGROUND else name


def _modules(classes: Iterable[str]) -> list[str]:
    return [cls.partition(":")[0] for cls in classes]
