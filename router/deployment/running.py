"""The deployments that run on this machine: each says what it is called and where it is reached."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dualmap.router.deployment.actors import ClusterError
from dualmap.router.local.owned_folder import owned_folder, owned_folders, remove_unowned

ANY_PREFIX = "dualmap-"  # of all that a deployment keeps for as long as it runs
PREFIX = f"{ANY_PREFIX}up-"
RECORD = "deployment.json"


@dataclass(frozen=True, slots=True)
class Running:
    """name: empty where it was given none. admin: URL of its first gateway's admin port; empty until that serves.
    started_at: Unix seconds."""

    name: str
    pid: int
    started_at: float
    log_dir: str = ""
    admin: str = ""

    def describe(self) -> str:
        where = self.admin or "its gateway does not serve yet"
        return f"{self.name or '(no name)'}: {where}, process {self.pid}"


class Home:
    """The folder of this deployment: for sockets, and for what others are told of it."""

    def __init__(self, path: Path, running: Running) -> None:
        self.path = path
        self._running = running

    def tell(self, log_dir: str = "", admin: str = "") -> None:
        """What is known by now. Raises OSError."""
        known = self._running
        self._running = replace(known, log_dir=log_dir or known.log_dir, admin=admin or known.admin)
        there = self.path / RECORD
        written = there.with_suffix(".new")
        written.write_text(json.dumps(asdict(self._running)))
        written.replace(there)  # nobody reads half of it


@contextmanager
def home(name: str) -> Iterator[Home]:
    """For as long as this deployment runs. What killed ones left on the disk is removed. Raises OSError, and
    ClusterError where another one has the name."""
    remove_unowned(Path(tempfile.gettempdir()), ANY_PREFIX)
    with owned_folder(Path(tempfile.gettempdir()), PREFIX) as path:
        mine = Home(path, Running(name, os.getpid(), time.time()))
        mine.tell()
        for other in running() if name else ():
            if other.name == name and other.pid != os.getpid():
                raise ClusterError(
                    f"a deployment named {name} runs on this machine already ({other.describe()}): end it, or give this"
                    " one another name"
                )
        yield mine


def reached_at(host: str) -> str:
    """From this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def running() -> list[Running]:
    """Those of this user, by name, the oldest first."""
    found = []
    for folder in owned_folders(Path(tempfile.gettempdir()), PREFIX):
        with suppress(OSError, ValueError, TypeError):  # it has just begun, or is of another version
            found.append(Running(**json.loads((folder / RECORD).read_text())))
    return sorted(found, key=lambda deployment: (deployment.name, deployment.started_at))
