"""Each way in which vLLM is known to fail, with two real servers: no request is lost, and what cannot be saved is told
to the client."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, deployed
from tests.vllm.conftest import VllmServer, served

pytestmark = pytest.mark.vllm

# No heartbeats: a head that is sent before an instance has answered does not name who answers.
CONFIG = """
instances: [{urls}]
gateway: {{heartbeat_s: 0}}
limits: {{stall_timeout_s: 3, sweep_interval_s: 0.2}}
"""
QUEUE_LIMIT = 8
OTHERS = QUEUE_LIMIT - 2  # requests that one server takes beside an answer that goes on there
FILLING = 3000  # tokens of one that keeps a server busy for some seconds
CONTINUED = 800  # tokens of one that goes on elsewhere


@dataclass
class Answer:
    """text: as received so far. begun: set when some of it is there. instance: who answers. error: how it failed."""

    text: str = ""
    instance: str = ""
    finish_reason: str | None = None
    error: Exception | None = None
    done: Future[None] = field(default_factory=Future)
    begun: threading.Event = field(default_factory=threading.Event)


def assert_complete(answers: list[Answer]) -> None:
    for answer in answers:
        answer.done.result(180)
        assert (answer.error, answer.finish_reason) == (None, "length")


class Fleet:
    """Two servers and a gateway that knows them by URL."""

    def __init__(self, servers: list[VllmServer], deployment: Deployment, pool: ThreadPoolExecutor) -> None:
        self.servers = {f"127.0.0.1:{server.port}": server for server in servers}
        self.deployment = deployment
        self._pool = pool

    def stream(self, max_tokens: int = CONTINUED, prompt: str = "Tell me.") -> Answer:
        """Returns at once; the answer fills."""
        answer = Answer()
        answer.done = self._pool.submit(self._follow, answer, max_tokens, prompt)
        return answer

    def _follow(self, answer: Answer, max_tokens: int, prompt: str) -> None:
        try:
            raw = self.deployment.client().chat.completions.with_raw_response.create(
                model="tiny",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=max_tokens,
                stream=True,
                temperature=0,
                extra_body={"ignore_eos": True, "repetition_penalty": 1.8},  # each token is another one
            )
            answer.instance = raw.headers["x-dualmap-instance"]
            for chunk in raw.parse():
                for choice in chunk.choices:
                    answer.text += choice.delta.content or ""
                    answer.finish_reason = choice.finish_reason or answer.finish_reason
                    answer.begun.set()
        except Exception as error:  # the client's, or its HTTP library's
            answer.error = error
        finally:
            answer.begun.set()

    def ask(self, max_tokens: int = 8):
        """A plain answer: who gave it, and what it is."""
        raw = self.deployment.client().chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "user", "content": "Say it."}],
            max_tokens=max_tokens,
            extra_body={"ignore_eos": True},
        )
        return raw.headers["x-dualmap-instance"], raw.parse()

    def one_that_streams(self, max_tokens: int = CONTINUED) -> tuple[VllmServer, Answer]:
        """A server that is in the middle of an answer."""
        answer = self.stream(max_tokens)
        assert answer.begun.wait(WAIT_S)
        assert answer.error is None
        return self.servers[answer.instance], answer

    def state(self, server: VllmServer) -> str:
        return self.deployment.members()[f"127.0.0.1:{server.port}"]["state"]

    def incarnation(self, server: VllmServer) -> int:
        return self.deployment.members()[f"127.0.0.1:{server.port}"]["incarnation"]

    def heal(self) -> None:
        """Every server is up and in use."""
        for server in self.servers.values():
            if not server.alive:
                server.stop()  # what is left of it
                server.start()
        for server in self.servers.values():
            server.await_ready()
            await_that(lambda server=server: self.state(server) == "ready", "it is in use")


@pytest.fixture(scope="module")
def whole_fleet(
    everyday_server: VllmServer, everyday_twin: VllmServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    with fleet_of([everyday_server, everyday_twin], tmp_path_factory.mktemp("gateway")) as fleet:
        yield fleet
    for server in fleet.servers.values():
        server.stop()


@contextmanager
def fleet_of(servers: list[VllmServer], directory: Path) -> Iterator[Fleet]:
    config = CONFIG.format(urls=", ".join(server.url for server in servers))
    with ThreadPoolExecutor(32) as pool, deployed(directory=directory, config=config) as deployment:
        yield Fleet(servers, deployment, pool)


@pytest.fixture
def fleet(whole_fleet: Fleet) -> Fleet:
    whole_fleet.heal()
    return whole_fleet


def test_both_answer(fleet):
    answers = [fleet.stream(max_tokens=20, prompt=f"{i} " * 300) for i in range(8)]
    assert_complete(answers)
    assert {answer.instance for answer in answers} == set(fleet.servers)


@pytest.mark.release
def test_a_hung_engine_is_noticed_though_its_health_is_fine_and_is_used_again_when_it_goes_on(fleet):
    server, hung = fleet.one_that_streams()
    server.signal_engine(signal.SIGSTOP)
    try:
        assert_complete([hung])
        assert server.status("/health") == 200
        await_that(lambda: fleet.state(server) == "lost", "its standstill is noticed")
        assert fleet.ask()[0] != f"127.0.0.1:{server.port}"
    finally:
        server.signal_engine(signal.SIGCONT)
    await_that(lambda: fleet.state(server) == "ready", "it is used again")


def test_a_sleeping_server_gets_no_requests_though_its_health_is_fine(fleet):
    server = next(iter(fleet.servers.values()))
    assert server.post("/sleep?level=1&mode=wait")[0] == 200
    try:
        assert server.status("/health") == 200
        await_that(lambda: fleet.state(server) == "lost", "its sleep is noticed")
        assert all(fleet.ask()[0] != f"127.0.0.1:{server.port}" for _ in range(4))
    finally:
        assert server.post("/wake_up")[0] == 200
    await_that(lambda: fleet.state(server) == "ready", "it is used again")


def test_where_the_engine_is_killed_its_stream_goes_on_elsewhere_and_nothing_fails(fleet):
    server, broken = fleet.one_that_streams()
    server.signal_engine(signal.SIGKILL)
    others = [fleet.stream(max_tokens=20, prompt=f"{i} " * 300) for i in range(OTHERS)]
    assert_complete([broken, *others])
    await_that(lambda: not server.alive, "its API process ends, too")


def test_a_server_that_ends_its_requests_first_breaks_none_and_refuses_none(fleet):
    """SIGTERM with --shutdown-timeout: its health stays green, and new requests are answered with an empty "abort"."""
    running = [fleet.stream(max_tokens=600, prompt=f"{i} " * 50) for i in range(4)]
    for answer in running:
        assert answer.begun.wait(WAIT_S)
    patient = fleet.servers[running[0].instance]
    os.kill(patient.pid, signal.SIGTERM)
    late = [fleet.stream(max_tokens=5, prompt=f"late {i} " * 50) for i in range(8)]
    assert_complete([*running, *late])
    await_that(lambda: not patient.alive, "it has ended")
    await_that(lambda: fleet.state(patient) == "lost", "its loss is noticed")


def test_a_killed_servers_stream_goes_on_elsewhere_with_the_text_that_it_would_have_had(fleet):
    """One request at a time: an engine may draw other tokens where prompts share a batch."""
    server, broken = fleet.one_that_streams()
    os.kill(server.pid, signal.SIGKILL)
    assert_complete([broken])
    undisturbed = fleet.stream(CONTINUED)
    assert_complete([undisturbed])
    assert broken.text == undisturbed.text


def test_a_killed_servers_token_ids_go_on_elsewhere_as_they_would_have(fleet):
    def generate(kill: bool) -> list[int]:
        sampling = {
            "max_tokens": CONTINUED,
            "temperature": 0,
            "ignore_eos": True,
            "repetition_penalty": 1.8,
            "logprobs": 0,
        }
        asked = {"model": "tiny", "token_ids": list(range(100, 200)), "stream": True, "sampling_params": sampling}
        url = f"http://127.0.0.1:{fleet.deployment.port}/inference/v1/generate"
        request = urllib.request.Request(url, json.dumps(asked).encode(), {"content-type": "application/json"})
        ids: list[int] = []
        with urllib.request.urlopen(request, timeout=WAIT_S) as stream:
            server = fleet.servers[stream.headers["x-dualmap-instance"]]
            for line in stream:
                if not line.startswith(b"data: {"):
                    continue
                (choice,) = json.loads(line.removeprefix(b"data: "))["choices"]
                assert len(choice["logprobs"]["content"]) == len(choice["token_ids"])
                if kill and not ids:
                    os.kill(server.pid, signal.SIGKILL)
                ids += choice["token_ids"]
        assert choice["finish_reason"] == "length"
        return ids

    lost = generate(kill=True)
    assert len(lost) == CONTINUED
    assert lost == generate(kill=False)


@pytest.fixture(scope="module")
def other_fleet(whole_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One that ends at once and queues few requests, and one whose cache holds few of them."""
    for server in whole_fleet.servers.values():
        server.stop()  # three at a time are too much for a small machine
    directory = tmp_path_factory.mktemp("other")
    hasty = VllmServer(directory / "hasty.log", "--max-num-queued-reqs", str(QUEUE_LIMIT))
    small = VllmServer(directory / "small.log", "--num-gpu-blocks-override", "40", "--max-model-len", "1024")
    with served(hasty, small), fleet_of([hasty, small], directory) as fleet:
        yield fleet


@pytest.mark.release
def test_requests_that_preempt_each_other_all_end_and_it_is_seen(other_fleet):
    """Strangers at the same server take the cache that the gateway counts on."""
    _, small = other_fleet.servers.values()
    body = {"model": "tiny", "prompt": "x " * 100, "max_tokens": 600, "ignore_eos": True}
    with ThreadPoolExecutor(16) as pool:
        strangers = [pool.submit(small.post, "/v1/completions", body, 180) for _ in range(4)]
        answers = [other_fleet.stream(max_tokens=400, prompt=f"{i} " * 100) for i in range(8)]
        assert_complete(answers)
        assert [stranger.result()[0] for stranger in strangers] == [200] * 4
    assert f"127.0.0.1:{small.port}" in {answer.instance for answer in answers}
    assert small.metrics().preemptions > 0
    member = f"127.0.0.1:{small.port}"
    await_that(lambda: other_fleet.deployment.members()[member]["signals"]["metrics"]["preemptions"] > 0, "it is shown")


@pytest.mark.release
def test_a_request_refused_by_a_full_server_runs_on_the_other(other_fleet):
    """Others have filled one server up to its own limit: it answers 503, without Retry-After."""
    server = next(iter(other_fleet.servers.values()))
    body = {"model": "tiny", "prompt": "x", "max_tokens": FILLING, "ignore_eos": True}
    with ThreadPoolExecutor(QUEUE_LIMIT) as pool:
        strangers = [pool.submit(server.post, "/v1/completions", body, 120) for _ in range(QUEUE_LIMIT)]
        await_that(lambda: server.metrics().running + server.metrics().waiting >= QUEUE_LIMIT, "it is full")
        assert server.post("/v1/completions", body | {"max_tokens": 1})[0] == 503
        answers = [other_fleet.stream(max_tokens=5, prompt=f"{i} " * 300) for i in range(QUEUE_LIMIT)]
        assert_complete(answers)
        assert [stranger.result()[0] for stranger in strangers] == [200] * QUEUE_LIMIT
    assert "dualmap_choices_total{reason=" in other_fleet.deployment.metrics()


@pytest.mark.release
def test_a_server_told_to_end_loses_no_answer_and_comes_back_as_another_incarnation(other_fleet):
    """SIGTERM: it ends its streams with finish_reason "abort" as if they were complete, or is gone before it can. They
    go on elsewhere, and what it had cached is not counted on when it is back at the same address."""
    server, broken = other_fleet.one_that_streams(max_tokens=600)  # which either can continue
    before = other_fleet.incarnation(server)
    os.kill(server.pid, signal.SIGTERM)
    others = [other_fleet.stream(max_tokens=20, prompt=f"{i} " * 300) for i in range(OTHERS)]
    assert_complete([broken, *others])
    await_that(lambda: not server.alive, "it has ended")
    await_that(lambda: other_fleet.state(server) == "lost", "its loss is noticed")
    other_fleet.heal()
    assert other_fleet.incarnation(server) > before
    assert other_fleet.ask()[1].choices[0].finish_reason == "length"
