"""One gateway in front of three simulated instances, and the clients, each started once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client_process import CALLS, PYTHON, ClientProcess, counters, need
from tests.conftest import await_that
from tests.deployment import Deployment, deployed, free_port

TEAM, HURRIED, PAINTER = "dm-team", "dm-hurried", "dm-painter"
HURRIED_PER_MINUTE = 20
CONFIG = """
simulate:
  count: 3
  capacity: {prefill_tokens_per_s: 200000}
pools:
  small:
    instances: [{url: "http://127.0.0.1:SMALL_PORT"}]
gateway: {api_keys_file: keys.yaml}
"""
KEYS = f"""
keys:
  - sha256: {sha256(TEAM.encode()).hexdigest()}
    tenant: team
    tokens_per_minute: 1000000000
  - sha256: {sha256(HURRIED.encode()).hexdigest()}
    tenant: hurried
    requests_per_minute: {HURRIED_PER_MINUTE}
  - sha256: {sha256(PAINTER.encode()).hexdigest()}
    tenant: painter
    tokens_per_minute: 100000
"""


class SmallServer:
    """A simulated server of the model `small`, which a test can stop and start again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (sys.executable, "-m", "dualmap", "sim-instance", "--port", str(self.port), "--model", "small")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def member(self, deployment: Deployment) -> dict[str, Any]:
        """As the gateway knows it."""
        return deployment.members()[f"127.0.0.1:{self.port}"]


@pytest.fixture(scope="session")
def small() -> Iterator[SmallServer]:
    server = SmallServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def deployment(small: SmallServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """`dualmap up` with API keys, three instances of the model `sim` and one of `small`."""
    directory = tmp_path_factory.mktemp("deployment")
    (directory / "keys.yaml").write_text(KEYS)
    with deployed(config=CONFIG.replace("SMALL_PORT", str(small.port)), directory=directory) as deployment:
        await_that(lambda: deployment.ready_count() == 4, "all instances are ready")
        yield deployment


@contextmanager
def clients(url: str, key: str, directory: Path) -> Iterator[Callable[[str], ClientProcess]]:
    """Starts each script of calls/ when it is first asked for. url: of the gateway, without /v1."""
    started: dict[str, ClientProcess] = {}
    with ExitStack() as stack:

        def client(script: str) -> ClientProcess:
            if script not in started:
                command = ("node",) if script.endswith(".mjs") else (need(PYTHON),)
                variables = {
                    "OPENAI_BASE_URL": f"{url}/v1",
                    "OPENAI_API_KEY": key,
                    "ANTHROPIC_BASE_URL": url,
                    "ANTHROPIC_API_KEY": key,
                }
                started[script] = ClientProcess((*command, CALLS / script), variables, directory / f"{script}.log")
                stack.callback(started[script].close)
            return started[script]

        yield client


@pytest.fixture(scope="session")
def start_client(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """start_client("openai_calls.py"): of the tenant `team`."""
    url = f"http://127.0.0.1:{deployment.port}"
    with clients(url, TEAM, tmp_path_factory.mktemp("clients")) as client:
        yield client


@pytest.fixture
def outcomes(deployment: Deployment) -> Callable[[], dict[str, float]]:
    """How many requests have ended how since the test began, of those outcomes that occurred."""

    def count() -> dict[str, float]:
        return counters(deployment.metrics(), "dualmap_requests_total")

    before = count()
    return lambda: {name: n - before.get(name, 0) for name, n in count().items() if n > before.get(name, 0)}
