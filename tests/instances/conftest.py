"""A simulated engine stepped by hand, and simulated servers as real processes that end with their test."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest, FinishedRequest, FirstToken, StepOutput
from tests.conftest import WAIT_S, await_that

JSON_HEADERS = {"content-type": "application/json"}
SMALL = {  # 16 blocks; a step of prompts only takes 0.1 s a token
    "block_size": 4,
    "kv_tokens": 64,
    "max_num_batched_tokens": 16,
    "max_num_seqs": 4,
    "max_model_len": 64,
    "prefill_s_per_token": 0.1,
    "step_base_s": 0.01,
    "decode_s_per_seq": 0.0,
    "decode_s_per_context_token": 0.0,
}


class SteppedEngine:
    """An engine in virtual time. tokens: how many each request has got; first, finished: what came of it, by id.
    gaps_s: all gaps between tokens together."""

    def __init__(self, **profile: Any) -> None:
        self.engine = Engine(EngineProfile(**SMALL | profile))
        self.now = 0.0
        self.gaps_s = 0.0
        self.tokens: dict[str, int] = {}
        self.first: dict[str, FirstToken] = {}
        self.finished: dict[str, FinishedRequest] = {}

    def add(
        self, request_id: str, prompt: int, output: int = 1, *, blocks: Any = (), priority: int = 0, **legs: bool
    ) -> None:
        """blocks: hashes of the leading blocks; those left out are of this request alone. legs: loads, lends."""
        total = (prompt + output) // self.engine.profile.block_size
        own = [hash_of(request_id, i) for i in range(len(blocks), total)]
        request = EngineRequest(request_id, (*blocks, *own)[:total], prompt, output, priority, **legs)
        self.engine.add(request, self.now)

    def step(self) -> float:
        """One whole step; its duration in seconds."""
        ends_at = self.engine.start_step(self.now)
        assert ends_at is not None, "there is nothing to do"
        return self.end_step(ends_at)

    def end_step(self, ends_at: float) -> float:
        duration_s, self.now = ends_at - self.now, ends_at
        self.take(self.engine.finish_step(ends_at))
        return duration_s

    def take(self, output: StepOutput) -> None:
        self.gaps_s += sum(gap_s * tokens for gap_s, tokens in output.token_gaps_s)
        for first in output.first_tokens:
            assert first.request_id not in self.first
            self.first[first.request_id] = first
        for request in output.finished:
            assert request.request_id not in self.finished
            self.finished[request.request_id] = request
        for request_id in [*output.decoding, *(request.request_id for request in output.finished)]:
            self.tokens[request_id] = self.tokens.get(request_id, 0) + 1
        assert sum(tokens for _, tokens in output.token_gaps_s) + len(output.first_tokens) == len(
            output.decoding
        ) + len(output.finished)

    def run(self, limit: int = 10_000) -> None:
        """Steps until nothing is left to do."""
        for _ in range(limit):
            ends_at = self.engine.start_step(self.now)
            if ends_at is None:
                return
            self.end_step(ends_at)
        raise AssertionError("the engine does not come to an end")


def hash_of(family: str, index: int) -> int:
    return int.from_bytes(family.encode()) * 1000 + index


@pytest.fixture
def stepped() -> Callable[..., SteppedEngine]:
    """Makes an engine; arguments change its profile."""
    return SteppedEngine


class SimProcess:
    """`python -m dualmap.instances.simulated.cli` on a free port."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        assert line.startswith(("listening on http://127.0.0.1:", "listening on https://127.0.0.1:")), line
        self.port = int(line.rsplit(":", 1)[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, header fields in lower case, body. body: bytes as they are, anything else as JSON. headers: JSON's
        content-type if None."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, content, JSON_HEADERS if headers is None else headers)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        status, _, answer = self.request("POST", path, body, headers)
        return status, json.loads(answer)

    def complete(self, prompt: Any, max_tokens: int = 1, **fields: Any) -> Any:
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, **fields}
        status, answer = self.post("/v1/completions", body)
        assert status == 200, answer
        return answer

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def begin(self, body: Any, path: str = "/v1/completions") -> socket.socket:
        """A connection on which a request was sent and nothing read."""
        connection = self.connect()
        content = json.dumps(body).encode()
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % (path.encode(), len(content)))
        connection.sendall(content)
        return connection

    def metric(self, name: str, **labels: str) -> float:
        _, _, text = self.request("GET", "/metrics")
        for line in text.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{key}="{of}"' in sample for key, of in labels.items()):
                return float(value)
        raise AssertionError(f"no metric {name} with {labels}")

    def await_metric(self, name: str, value: float, **labels: str) -> None:
        await_that(lambda: self.metric(name, **labels) == value, f"{name} is {value}")

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """All that comes, up to and with `end` and what arrived along with it."""
    received = b""
    while end not in received:
        piece = connection.recv(65536)
        assert piece, f"closed after {received!r}"
        received += piece
    return received


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.fixture(scope="session")
def sim() -> Iterator[SimProcess]:
    """A quick server for all tests that leave it as it was."""
    process = SimProcess("--prefill-tokens-per-s", "1000000")
    yield process
    process.clean_up()


@contextmanager
def starting_sims() -> Iterator[Callable[..., SimProcess]]:
    """Starts a server with the given flags; all end with the block."""
    with ExitStack() as stack:

        def start(*flags: str) -> SimProcess:
            process = SimProcess(*flags)
            stack.callback(process.clean_up)
            return process

        yield start


@pytest.fixture
def start_sim() -> Iterator[Callable[..., SimProcess]]:
    """See starting_sims."""
    with starting_sims() as start:
        yield start


@pytest.fixture
def receive() -> Callable[..., bytes]:
    """receive(connection, until=b"..."): bytes up to there, or to the end of the connection."""

    def receive(connection: socket.socket, until: bytes = b"") -> bytes:
        return read_until(connection, until) if until else read_to_end(connection)

    return receive
