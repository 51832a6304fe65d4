"""The chart's head, gateways and pickers as processes of this machine, with the arguments and the environment that it
renders: what they share, that gateways outlive the head, and that an upgrade cuts no stream."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import openai
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc

from tests.balancer import Balancer
from tests.conftest import WAIT_S
from tests.deploy.chart_variants import needs_go
from tests.deploy.releases import HEAD, HOSTS, KEY, LIMITED, PER_MINUTE, GatewayPod, Release, all_know
from tests.deployment import held, under_load
from tests.router.proxy_stream import ProxyStream

pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_go]

VALUES = {
    "apiKeysSecret": "keys",
    "preStopSeconds": 2,
    "config": {"gateway": {"drain_s": 60}, "scheduler": {"block_tokens": 64}},
}


class Service:
    """In front of gateways, as Kubernetes' own: a connection each in turn."""

    def __init__(self, balancer: Balancer, key: str = KEY) -> None:
        self._url = f"{balancer.url}/v1"
        self._key = key

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self._url, api_key=self._key, max_retries=0, timeout=WAIT_S)


class Served:
    """A release with two gateways and a head, which may be replaced."""

    def __init__(self, release: Release, balancer: Balancer) -> None:
        self.release = release
        self.balancer = balancer
        self.service = Service(balancer)
        self.gateways = [GatewayPod(release, name) for name in ("dualmap-a", "dualmap-b")]
        self.head = release.pod(HEAD, "dualmap-head-1")
        self._heads = 1
        self.settle("both gateways know each other and all instances")

    def settle(self, what: str) -> None:
        self.release.wait(lambda: all_know(*self.gateways), what)
        self.balancer.backends = tuple(gateway.port for gateway in self.gateways)

    def start_head(self) -> None:
        self.release.gone(self.head)
        self._heads += 1
        self.head = self.release.pod(HEAD, f"dualmap-head-{self._heads}")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with ExitStack() as stack:
        release = Release(VALUES, tmp_path_factory.mktemp("chart"), stack)
        balancer = Balancer(())
        stack.callback(balancer.close)
        yield Served(release, balancer)


def test_gateways_of_several_pods_know_what_the_others_have_booked(served):
    def seen() -> bool:
        rows = [gateway.members().values() for gateway in served.gateways]
        own, others = ([sum(m[name] for m in row) for row in rows] for name in ("running", "others_running"))
        return min(own) > 0 and own == others[::-1]

    with held(served.service, 8):
        served.release.wait(seen, "what runs for the one is known to the other")
    first, second = (gateway.status() for gateway in served.gateways)
    assert first["epoch"] == second["epoch"]


def test_a_limit_is_granted_once_by_all_gateways_together(served):
    service = Service(served.balancer, LIMITED)
    begun = time.monotonic()
    granted = 0
    with ThreadPoolExecutor(4) as clients:
        for limit, is_granted in clients.map(lambda number: granted_one(service, number), range(2 * PER_MINUTE)):
            granted += is_granted
            assert limit == PER_MINUTE // 2
    refilled = PER_MINUTE * (time.monotonic() - begun) / 60.0
    assert PER_MINUTE <= granted <= PER_MINUTE + refilled + len(served.gateways)


def epoch_of(gateway: GatewayPod) -> int:
    return int(gateway.status()["epoch"])


def granted_one(service: Service, number: int) -> tuple[int, bool]:
    """The limit that the gateway says, and whether the request was served."""
    with service.client() as client:
        messages: Any = [{"role": "user", "content": f"Question {number}"}]
        try:
            raw = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=1)
        except openai.RateLimitError as error:
            return int(error.response.headers["x-ratelimit-limit-requests"]), False
    return int(raw.headers["x-ratelimit-limit-requests"]), True


def test_gateways_outlive_the_head_and_find_the_next_one(served):
    before = [gateway.members() for gateway in served.gateways]
    epoch = max(map(epoch_of, served.gateways))
    heard = [len(gateway.said()) for gateway in served.gateways]

    def miss_it() -> bool:
        news = [gateway.said()[count:] for gateway, count in zip(served.gateways, heard, strict=True)]
        return all(any("connection refused" in line for line in lines) for lines in news)

    def strike() -> None:
        served.release.gone(served.head)
        served.head.kill()
        served.release.wait(miss_it, "gateways say that nobody is there")
        assert all(len(gateway.members()) == len(HOSTS) for gateway in served.gateways)
        served.start_head()
        served.release.wait(lambda: min(map(epoch_of, served.gateways)) > epoch, "they have found the next one")
        served.settle("they know each other again")

    assert under_load(served.service, strike) == []
    for gateway, members in zip(served.gateways, before, strict=True):
        after = gateway.members()
        assert {i: m["incarnation"] for i, m in after.items()} == {i: m["incarnation"] for i, m in members.items()}


class LongAnswer:
    """A stream through this gateway that has begun, and is read to its end by a thread."""

    def __init__(self, gateway: GatewayPod, reader: ThreadPoolExecutor) -> None:
        url = f"http://127.0.0.1:{gateway.port}/v1"
        self._client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=WAIT_S)
        messages: Any = [{"role": "user", "content": "A long story."}]
        body = {"ignore_eos": True}
        self._chunks = self._client.chat.completions.create(
            model="sim", messages=messages, max_tokens=200, stream=True, extra_body=body
        )
        next(self._chunks)
        self._rest = reader.submit(list, self._chunks)

    def ending(self) -> str:
        chunks = self._rest.result(WAIT_S)
        self._client.close()
        return str(chunks[-1].choices[0].finish_reason)


def test_an_upgrade_of_gateways_and_head_cuts_no_stream(served):
    """In Kubernetes' order: one gateway more, then one is ended: out of the Service, preStop, SIGTERM."""

    def strike() -> None:
        served.head.end()  # a Deployment of one that is recreated
        served.start_head()
        for number, old in enumerate(list(served.gateways)):
            served.gateways.append(GatewayPod(served.release, f"dualmap-new-{number}"))
            served.settle("one more is ready")
            with ThreadPoolExecutor(1) as reader:
                answer = LongAnswer(old, reader)
                served.gateways.remove(old)
                served.balancer.backends = tuple(gateway.port for gateway in served.gateways)
                served.release.gone(old.pod)
                assert old.pod.end() == [0]
                assert answer.ending() == "length"
            served.settle("the others know that it is gone")

    assert under_load(served.service, strike) == []


@pytest.mark.release
def test_pickers_join_a_head_as_well(tmp_path):
    values = {"picker": {"enabled": True}, "config": {"scheduler": {"block_tokens": 64}}}
    with ExitStack() as stack:
        release = Release(values, tmp_path, stack)
        release.pod(HEAD, "dualmap-head-1")
        pickers = [GatewayPod(release, name, "--grpc-port") for name in ("dualmap-a", "dualmap-b")]
        release.wait(lambda: all_know(*pickers), "both know each other and all instances")
        for picker in pickers:
            assert asyncio.run(picked_by(picker)).partition(":")[0] in HOSTS


class OverGrpc:
    """A picker in another process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ext_proc_grpc.ExternalProcessorStub(channel)

    def Process(self, messages: AsyncIterator[Any], context: None) -> AsyncIterator[Any]:  # noqa: N802
        answers: AsyncIterator[Any] = aiter(self._stub.Process(messages))
        return answers


async def picked_by(picker: GatewayPod) -> str:
    """The endpoint for a request."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{picker.port}") as channel:
        stream = ProxyStream(OverGrpc(channel))
        stream.ask(json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hi"}]}).encode())
        return (await stream.endpoints())[0]  # others are for when it fails
