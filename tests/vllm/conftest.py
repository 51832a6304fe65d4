"""Real vLLM servers on the CPU, each in a session of its own, all of them ended with the tests."""

import json
import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from tests.conftest import await_that, session_of
from tests.deployment import Deployment, free_port
from tests.router.made_tokenizers import PARTS_TEMPLATE, TEXT_TEMPLATE

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
    # The engine computes in its own process, as with one GPU: a worker's would be a third of the CPU of a start.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
SWITCHES = {"VLLM_ENABLE_RESPONSES_API_STORE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
TOOL_CALLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
BARE_JSON = ("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}')
KV_TOPIC = "kv"
ENGINE_NICENESS = 15
# In this order: those that share the everyday server and its twin, those that share servers with chat templates, and
# those that share two replicas. The first of each find what they share as it has started, the last stop it.
ORDER = (
    *(
        "test_kv_events",
        "test_kv_event_agreement",
        "test_agreement",
        "test_bodies",
        "test_token_blocks",
        "test_calibrate",
        "test_failures",
    ),
    *("test_api_prompts", "test_streams"),
    *("test_exact_identity", "test_cut_streams", "test_kept_state", "test_clients"),
)
FLAGS = (
    *("--served-model-name", "tiny", "--enforce-eager", "--max-model-len", "8192", "--max-num-seqs", "16"),
    *("--block-size", "32", "--num-gpu-blocks-override", "2000", "--enable-prompt-tokens-details"),
)
EVERYDAY_POOL_BLOCKS = 520  # of 32 tokens: 16 prompts of 1,024
SYSTEM_FIRST = (  # as Qwen's and others refuse it
    "{%- for message in messages %}{%- if message.role == 'system' and not loop.first %}"
    "{{- raise_exception('System message must be at the beginning.') }}{%- endif %}{%- endfor %}"
)
CHAT_TEMPLATES = {
    "texts": TEXT_TEMPLATE + "{{- reasoning_effort }}",
    "parts, system first": SYSTEM_FIRST + PARTS_TEMPLATE,
}
EXACT_BLOCK_TOKENS = 64  # of the gateway in front of the two replicas


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(ORDER)}
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
    """`vllm serve` on 127.0.0.1. flags come after FLAGS and so win. start again: at the same port."""

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
        self.process = None


class EverydayServer(VllmServer):
    """With all the APIs that the model can serve. It takes adapters, and a chat's template with the request, publishes
    what is in its small cache, and lets its requests end when it is told to end."""

    def __init__(self, log_path: Path) -> None:
        self.kv_endpoint, self.kv_replay_endpoint = (f"tcp://*:{free_port()}" for _ in range(2))
        kv_events = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": KV_TOPIC}
        kv_events |= {"endpoint": self.kv_endpoint, "replay_endpoint": self.kv_replay_endpoint}
        super().__init__(
            log_path,
            *("--enable-scale-out", "--enable-lora", "--trust-request-chat-template", "--shutdown-timeout", "60"),
            *("--num-gpu-blocks-override", str(EVERYDAY_POOL_BLOCKS), "--kv-events-config", json.dumps(kv_events)),
            env=SWITCHES,
        )


def need_vllm() -> None:
    if not VLLM.exists():
        pytest.skip(f"{VLLM} is missing: make vllm")


@contextmanager
def served(*servers: VllmServer) -> Iterator[None]:
    """They start at once, are ready, and end with the block."""
    need_vllm()
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        for server in servers:
            server.await_ready()
        yield


@pytest.fixture(scope="session")
def everyday_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EverydayServer]:
    """For the files that leave it as it was, and then for those that do not."""
    server = EverydayServer(tmp_path_factory.mktemp("vllm") / "everyday.log")
    with served(server):
        yield server


@pytest.fixture(scope="session")
def everyday_twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EverydayServer]:
    """Another of that kind."""
    server = EverydayServer(tmp_path_factory.mktemp("vllm") / "twin.log")
    with served(server):
        yield server


@pytest.fixture(scope="session")
def template_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, VllmServer]]:
    """By the name of their template. Their operator wants clients to have `usage`, whatever they ask for."""
    directory = tmp_path_factory.mktemp("templates")
    servers = {}
    for name, template in CHAT_TEMPLATES.items():
        path = directory / f"{name}.jinja"
        path.write_text(template)
        flags = ("--chat-template", str(path), "--enable-scale-out", "--enable-force-include-usage", *TOOL_CALLS)
        servers[name] = VllmServer(directory / f"{name}.log", *flags)
    with served(*servers.values()):
        yield servers


def up(directory: Path, *arguments: str, engine_args: tuple[str, ...] = ()) -> Deployment:
    """`dualmap up` with two replicas of the tiny model, which keep responses and take adapters."""
    need_vllm()
    engine = shlex.join((*FLAGS, *engine_args))
    model = ("--model", str(TINY), "--replicas", "2", "--vllm", str(VLLM), "--engine-args", engine)
    return Deployment(*arguments, *model, directory=directory, env=ENV | SWITCHES)


@pytest.fixture(scope="session")
def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Behind a gateway that has the model's tokenizer and is told what they cache. Calls of tools are found, and no
    blanks go before the JSON that a schema wants; adapters can be loaded."""
    directory = tmp_path_factory.mktemp("two_replicas")
    exact = {"gateway": {"tokenizer": str(TINY)}, "scheduler": {"block_tokens": EXACT_BLOCK_TOKENS}}
    (directory / "dualmap.yaml").write_text(json.dumps(exact))
    engine_args = (*TOOL_CALLS, *BARE_JSON, "--enable-lora", "--max-loras", "2", "--enable-scale-out")
    deployment = up(directory, "dualmap.yaml", "--kv-events", engine_args=engine_args)
    try:
        deployment.await_started(2 * START_TIMEOUT_S)
        yield deployment
    finally:
        deployment.clean_up()
