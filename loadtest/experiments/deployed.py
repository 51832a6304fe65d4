"""A deployment as users start it, `dualmap up CONFIG`, for measurements: its addresses, its processes, its end."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from dualmap.router.local.process import MODULE as LOCAL_PROCESS
from dualmap.router.reach.names import BACKGROUND

OWN = ("GatewayActor", "InstanceActor")  # Ray's own actors; all others are in the background process
MARK = "DUALMAP_MEASURED"  # in the environment of every process of the deployment, however far it has moved
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 120.0
READY_POLL_S = 0.1
STARTED = "Ctrl-C stops everything"
# Above those of Ray's workers. Those that the kernel gives to connections could be taken before a gateway binds them.
PORTS = range(20_000, 32_000)


class DeploymentError(Exception):
    """It did not start; the message has what it said."""


class Deployed:
    """port: for clients. admin_port: of the first gateway. started_s: from the command until all was started."""

    def __init__(
        self, process: "subprocess.Popen[str]", mark: str, port: int, admin_port: int, started_s: float, file: Path
    ) -> None:
        """file: its configuration."""
        self.process = process
        self._file = file
        self.port = port
        self.admin_port = admin_port
        self.started_s = started_s
        self._mark = mark

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def change(self, **sections: Any) -> None:
        """What its file says of these; the deployment reads the file again by itself."""
        new = self._file.with_suffix(".new")
        new.write_text(yaml.safe_dump(yaml.safe_load(self._file.read_text()) | sections))
        new.replace(self._file)

    def status(self, admin_port: int | None = None) -> dict[str, Any]:
        """Raises OSError while the gateway is away."""
        url = f"http://127.0.0.1:{admin_port or self.admin_port}/admin/status"
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def member_states(self) -> dict[str, str]:
        """By instance; empty while the gateway is away."""
        try:
            return {member["instance_id"]: member["state"] for member in self.status()["members"]}
        except OSError:
            return {}

    def await_ready(self, count: int, within_s: float = READY_TIMEOUT_S) -> None:
        """Raises DeploymentError."""
        ends_at = time.monotonic() + within_s
        while (ready := list(self.member_states().values()).count("ready")) < count:
            if time.monotonic() > ends_at:
                raise DeploymentError(f"{ready} of {count} servers are ready after {within_s:g} s")
            time.sleep(READY_POLL_S)

    def actor_pids(self, class_name: str) -> list[int]:
        """Processes of the actors of that class, the oldest first. Without Ray one has all that are no gateways."""
        found = sorted(self.processes(), key=lambda process: process.info["create_time"])
        return [process.info["pid"] for process in found if _has_actor(process.info["cmdline"] or (), class_name)]

    def command_pids(self, part: str) -> list[int]:
        """Processes whose command line has that part."""
        return [p.info["pid"] for p in self.processes() if part in " ".join(p.info["cmdline"] or ())]

    def processes(self) -> list[psutil.Process]:
        """All of the deployment's, Ray's included."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "create_time"]):
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _has_actor(command: Sequence[str], class_name: str) -> bool:
    if command and command[0].startswith("ray::"):
        return command[0].removeprefix("ray::").split(".")[0] == (class_name if class_name in OWN else "Background")
    if LOCAL_PROCESS not in command:
        return False
    name = command[command.index(LOCAL_PROCESS) + 1]
    if class_name == "GatewayActor":
        return name.startswith("gateway-")
    return name == BACKGROUND and class_name != "InstanceActor"


@contextmanager
def deployed(
    config: Mapping[str, Any], folder: Path, env: Mapping[str, str] | None = None, mark: str = ""
) -> Iterator[Deployed]:
    """Free ports are chosen where the configuration says 0 or nothing. env: added to ours. mark: of others that count
    among its processes. Raises DeploymentError."""
    folder.mkdir(parents=True, exist_ok=True)
    gateway = dict(config.get("gateway", {}))
    count = gateway.get("count", 1)
    gateway["port"] = gateway.get("port") or run_of_free_ports(1)
    gateway["admin_port"] = gateway.get("admin_port") or run_of_free_ports(count)
    path = folder / "dualmap.yaml"
    path.write_text(yaml.safe_dump({**config, "gateway": gateway, "log_dir": str(folder / "logs")}))
    mark = mark or uuid.uuid4().hex
    begun_at = time.monotonic()
    process = begin([sys.executable, "-m", "dualmap", "up", str(path)], {**os.environ, **(env or {}), MARK: mark})
    try:
        await_started(process)
        yield Deployed(process, mark, gateway["port"], gateway["admin_port"], time.monotonic() - begun_at, path)
    finally:
        end(process)


def begin(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """It hears no Ctrl-C of ours. What it says is to be read."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def await_started(process: "subprocess.Popen[str]") -> None:
    """What it says later is read, too, so that it never waits for us."""
    said: list[str] = []
    started = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if STARTED in line:
                started.set()
        started.set()

    threading.Thread(target=read, daemon=True).start()
    if not started.wait(START_TIMEOUT_S) or process.poll() is not None:
        raise DeploymentError("dualmap up did not start:\n" + "".join(said))


def run_of_free_ports(count: int) -> int:
    """The first of so many that follow each other."""
    while True:
        first = random.choice(PORTS)
        if all(map(_is_free, range(first, first + count))):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class StateLog:
    """How many instances were in which state, each second, on the monotonic clock."""

    def __init__(self, deployment: Deployed) -> None:
        self.samples: list[tuple[float, dict[str, int]]] = []
        self._deployment = deployment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StateLog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            states = self._deployment.member_states()
            counts: dict[str, int] = {}
            for state in states.values():
                counts[state] = counts.get(state, 0) + 1
            if counts:
                self.samples.append((time.monotonic(), counts))
