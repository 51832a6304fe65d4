"""Processes of this machine as the runtime of a deployment: one for each gateway, one for all else."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dualmap.router.deployment.actor_classes import IN_BACKGROUND
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.instances import NoInstances
from dualmap.router.local.children import Children, LocalCall, LocalHandle
from dualmap.router.local.link import PROGRAM as LINK
from dualmap.router.local.local_reach import LocalReach
from dualmap.router.reach.host import HELLO
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.reach import Reach

LOG = "processes.log"  # what processes print, where they have no log file, or not yet


class LocalRuntime:
    """log_dir: gets what processes print; None: it goes to standard error. say: is told when one is started again; from
    another thread. joins: what the link is told of a deployment that has the background process; empty: it is one of
    this machine."""

    reach: Reach

    def __init__(self, log_dir: Path | None, say: Callable[[str], None], joins: Sequence[str] = ()) -> None:
        self.joins = bool(joins)
        self._joined = joins
        self._log_path = log_dir and log_dir / LOG
        self._say = say
        self._children: Children | None = None

    @property
    def runs(self) -> bool:
        return self._children is not None

    @property
    def is_lost(self) -> bool:
        return False

    def start(self) -> None:
        try:
            self._children = Children(self._log_path, self._say)
            if self.joins:
                self._children.start_program(BACKGROUND, LINK, *self._joined)
            else:
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

    def hello(self) -> LocalCall:
        """Raises CallError where the background process does not answer, or is not there."""
        return self._known().begin(BACKGROUND, "", HELLO)

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
