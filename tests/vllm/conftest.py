"""Real vLLM servers on the CPU, each in a session of its own, all of them ended with the tests."""

import json
import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from tests.conftest import await_that, session_of
from tests.deployment import Deployment, free_port

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
TINY = ROOT / ".venv-vllm" / "models" / "tiny"
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 30.0
LOG_LINES_SHOWN = 30
ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "VLLM_SERVER_DEV_MODE": "1",
}
SWITCHES = {"VLLM_ENABLE_RESPONSES_API_STORE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
TOOLS = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'),
)
ENGINE_NICENESS = 15
# These come first, in this order: those that share the everyday server, and those that share two replicas. The last of
# either stop what they share: it would be in the way of those that start their own.
FIRST = (
    *("test_agreement", "test_bodies", "test_token_blocks", "test_calibrate", "test_kept_state"),
    *("test_cut_streams", "test_clients"),
)
FLAGS = (
    *("--served-model-name", "tiny", "--enforce-eager", "--max-model-len", "8192", "--max-num-seqs", "16"),
    *("--block-size", "32", "--num-gpu-blocks-override", "2000", "--enable-prompt-tokens-details"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)) if item.get_closest_marker("vllm") else -1)


def post(url: str, body: Any = None, timeout_s: float = 60.0) -> tuple[int, Any]:
    """Status and JSON of the answer; of a refusal its text."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class VllmServer:
    """`vllm serve` on 127.0.0.1. flags come after FLAGS and so win. start_new: again, at the same port."""

    def __init__(self, log_path: Path, *flags: str, env: dict[str, str] | None = None, model: Path = TINY) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(str(VLLM), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port)),
            *FLAGS,
            *flags,
        ]
        self._env = {**os.environ, **ENV, **(env or {})}
        self._log_path = log_path
        self._engine: set[int] = set()

    def start(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env, start_new_session=True
            )

    def await_ready(self) -> None:
        """The engine yields to all else from then on: on two cores it would be done with a whole answer before the API
        process has come to send the first token."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.status("/health") != 200:
            assert self.alive, self.log_tail()
            assert time.monotonic() < deadline, self.log_tail()
            time.sleep(0.5)
        self._engine = session_of(self.pid).keys() - {self.pid}  # to look for them takes long where all is busy
        for pid in self._engine:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), ENGINE_NICENESS)

    @property
    def pid(self) -> int:
        """Of the API process."""
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal_engine(self, number: int) -> None:
        """To all of its processes but that of the API; after await_ready."""
        for pid in self._engine:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def post(self, path: str, body: Any = None, timeout_s: float = 60.0) -> tuple[int, Any]:
        return post(self.url + path, body, timeout_s)

    def status(self, path: str) -> int:
        """Of a GET; 0 where nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> ServerMetrics:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            metrics = read_metrics(answer.read())
        assert metrics is not None
        return metrics

    def log_tail(self) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def stop(self) -> None:
        """All of its processes, the engine's too."""
        if self.process is None:
            return
        for pid in session_of(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=STOP_TIMEOUT_S)
        await_that(lambda: not session_of(self.pid), "all of the server's processes have ended")


@pytest.fixture(scope="session")
def everyday_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """One server for the files that leave it as it was, with all the APIs that the model can serve. It takes a chat's
    template with the request."""
    if not VLLM.exists():
        pytest.skip(f"{VLLM} is missing: make vllm")
    log_path = tmp_path_factory.mktemp("vllm") / "everyday.log"
    flags = ("--enable-scale-out", "--enable-lora", "--trust-request-chat-template")
    server = VllmServer(log_path, *flags, env=SWITCHES)
    server.start()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()


def up(directory: Path, *arguments: str, engine_args: tuple[str, ...] = ()) -> Deployment:
    """`dualmap up` with two replicas of the tiny model, which keep responses and take adapters."""
    if not VLLM.exists():
        pytest.skip(f"{VLLM} is missing: make vllm")
    engine = shlex.join((*FLAGS, *engine_args))
    served = ("--model", str(TINY), "--replicas", "2", "--vllm", str(VLLM), "--engine-args", engine)
    return Deployment(*served, *arguments, directory=directory, env=ENV | SWITCHES)


@pytest.fixture(scope="session")
def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Calls of tools are found, and no blanks go before the JSON that a schema wants; adapters can be loaded."""
    deployment = up(
        tmp_path_factory.mktemp("two_replicas"),
        engine_args=(*TOOLS, "--enable-lora", "--max-loras", "2", "--enable-scale-out"),
    )
    try:
        deployment.await_started(2 * START_TIMEOUT_S)
        yield deployment
    finally:
        deployment.clean_up()


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VllmServer]]:
    """Makes servers: arguments as VllmServer's after the log, ready unless start=False. Those made together should be
    started first and then awaited."""
    if not VLLM.exists():
        pytest.skip(f"{VLLM} is missing: make vllm")
    servers: list[VllmServer] = []

    def make(*flags: str, start: bool = True, **options: Any) -> VllmServer:
        log_path = tmp_path_factory.mktemp("vllm") / f"vllm-{len(servers)}.log"
        server = VllmServer(log_path, *flags, **options)
        servers.append(server)
        if start:
            server.start()
            server.await_ready()
        return server

    try:
        yield make
    finally:
        for server in servers:
            server.stop()
