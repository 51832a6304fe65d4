"""`dualmap up` as users start it, for tests of whole deployments."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai
import pytest

from tests.conftest import WAIT_S, ProcessFamily

LEAST_ASKED = 4
MOST_GATEWAYS = 2
# Above those of Ray's workers, and below those that the kernel gives to connections.
PORT_BLOCKS = range(20_000, 32_000, 100)
HOLDERS: list[socket.socket] = []
_own_ports = range(0)
RAY_IS_LATE = "timed out during startup"
RAY_STARTS = 4
STARTED = "Ctrl-C stops everything"
LOCAL = "dualmap.router.local.process"  # what a process without Ray runs
RAY = (pytest.mark.ray, pytest.mark.slow)
RUNTIMES = (pytest.param("local", id="local"), pytest.param("ray", id="ray", marks=RAY))
# Where what a test shows hardly depends on what runs the actors.
LOCAL_BEFORE_RAY = (RUNTIMES[0], pytest.param("ray", id="ray", marks=(*RAY, pytest.mark.release)))


def free_port(count: int = 1) -> int:
    """The first of so many in a row, each given once."""
    global _own_ports
    while True:
        if len(_own_ports) < count:
            _own_ports = _block_of_ports()
        ports, _own_ports = _own_ports[:count], _own_ports[count:]
        if all(map(_is_free, ports)):
            return ports[0]


def _block_of_ports() -> range:
    """No other process with tests gets one of them while this process lives, as long as a slow start may take to bind
    what was found free: the name of a socket is taken for the block."""
    while True:
        first = random.choice(PORT_BLOCKS)
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0dualmap-tests-{first}")
        except OSError:
            holder.close()
        else:
            HOLDERS.append(holder)
            return range(first, first + PORT_BLOCKS.step)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Deployment:
    """`dualmap up`, or `dualmap pick`, in a session of its own, as a terminal would run it."""

    def __init__(
        self, *arguments: str, directory: Path, env: Mapping[str, str] | None = None, command: str = "up"
    ) -> None:
        self.family = ProcessFamily()
        self.port = free_port(1 + MOST_GATEWAYS)
        self.admin_port = self.port + 1  # of the first gateway; others have those after it
        port_flag = "--port" if command == "up" else "--grpc-port"
        ports = (port_flag, str(self.port), "--admin-port", str(self.admin_port))
        self.directory = directory
        self._command = [sys.executable, "-m", "dualmap", command, *ports, *arguments]
        self._env = {**self.family.environment, **(env or {})}
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=self._env,
            start_new_session=True,
        )
        self.output: list[str] = []
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output.append(line)
            if STARTED in line:
                self._started.set()
        self._started.set()

    def await_started(self, within_s: float = WAIT_S) -> None:
        """Where this machine is too busy for Ray, which gives a node half a minute to start, it is started again."""
        for _ in range(RAY_STARTS):
            assert self._started.wait(within_s), self.output
            if not any(RAY_IS_LATE in line for line in self.output):
                break
            self.process.wait(within_s)
            self._start()
        assert any(STARTED in line for line in self.output), self.output

    def await_ended(self) -> None:
        """All it had to say is in `output`."""
        self._reader.join(timeout=WAIT_S)

    def client(self) -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S)

    def status(self, admin_port: int | None = None) -> dict:
        url = f"http://127.0.0.1:{admin_port or self.admin_port}/admin/status"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return json.load(answer)

    def members(self) -> dict[str, dict]:
        return {member["instance_id"]: member for member in self.status()["members"]}

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=WAIT_S) as answer:
            return answer.read().decode()

    def ready_count(self) -> int:
        return sum(member["state"] == "ready" for member in self.members().values())

    def actor_pids(self, cls: str) -> list[int]:
        """Of the processes with an actor of that class; all but gateways and servers' actors are in one process."""
        process = "gateway-" if cls == "GatewayActor" else "background "
        over_ray = cls if cls in ("GatewayActor", "InstanceActor") else "Background"
        return list(self.family.living(f"ray::{over_ray}") or self.family.living(f"{LOCAL} {process}"))

    def stop(self, number: int) -> int:
        """SIGINT goes to the whole group, as a terminal's Ctrl-C; SIGTERM to the command, as a supervisor's."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        code = self.process.wait(timeout=WAIT_S)
        self.await_ended()
        return code

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.family.kill()
        self._reader.join(timeout=WAIT_S)


@contextmanager
def deployed(
    *arguments: str, directory: Path, config: str | None = None, within_s: float = WAIT_S, **options
) -> Iterator[Deployment]:
    """A deployment that has started, and is gone in the end. config: the text of its file. options: of Deployment."""
    if config is not None:
        (directory / "dualmap.yaml").write_text(config)
        arguments = ("dualmap.yaml", *arguments)
    deployment = Deployment(*arguments, directory=directory, **options)
    try:
        deployment.await_started(within_s)
        yield deployment
    finally:
        deployment.clean_up()


def ask(deployment: Deployment, text: str, **options) -> str:
    """The gateway that answered. Each call is a connection of its own, which the kernel gives to one of them."""
    messages = [{"role": "user", "content": text}]
    with deployment.client() as client:
        raw = client.chat.completions.with_raw_response.create(model="sim", messages=messages, **options)
        assert raw.parse().choices[0].finish_reason in ("stop", "length")
    return "-".join(raw.headers["x-request-id"].split("-")[:2])


@contextmanager
def held(deployment: Deployment, count: int) -> Iterator[None]:
    """So many streams under way until the block ends, however slow the machine is; then their clients leave."""
    options = {"max_tokens": 20_000, "stream": True, "extra_body": {"ignore_eos": True}}
    with ExitStack() as stack:
        client = stack.enter_context(deployment.client())
        for number in range(count):
            messages = [{"role": "user", "content": f"{number} writes a book"}]
            stream = client.chat.completions.create(model="sim", messages=messages, **options)
            stack.callback(stream.close)
        yield


def under_load(deployment: Deployment, strike, context: str = "", clients: int = 4, **options) -> list[str]:
    """Short answers asked for without a pause by some clients while `strike` happens, and at least a few each: what
    failed. context: behind each question. options: of the requests."""
    options = {"max_tokens": 2} | options
    failed: list[str] = []
    stop = threading.Event()

    def client(number: int) -> None:
        count = 0
        while count < LEAST_ASKED or not stop.is_set():
            try:
                ask(deployment, f"Client {number}, question {count}{context}", **options)
            except openai.APIError as error:
                failed.append(repr(error))
            count += 1

    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(client, number) for number in range(clients)]
        try:
            strike()
        finally:
            stop.set()
        for done in running:
            done.result(timeout=WAIT_S)
    return failed
