"""The stub servers that stand for a large fleet where watching is measured."""

import http.client
import json
import urllib.request

import pytest

from dualmap.instances.server.metrics import read_metrics
from dualmap.loadtest.experiments.stub_fleet import METRICS_BYTES, StubFleet, stub_fleet
from tests.conftest import WAIT_S


@pytest.fixture(scope="module")
def fleet():
    with stub_fleet(8, hanging=2) as started:
        yield started


def get(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=WAIT_S) as answer:
        return answer.read()


def hangs(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    connection.request("GET", "/health")
    try:
        return connection.getresponse().status != 200
    except TimeoutError:
        return True
    finally:
        connection.close()


def test_the_servers_say_what_vllm_says_where_it_is_read(fleet: StubFleet) -> None:
    assert len(fleet.ports) == len(set(fleet.ports)) == 8
    url = fleet.urls[-1]
    text = get(f"{url}/metrics")
    metrics = read_metrics(text)
    assert metrics is not None
    assert metrics.kv_tokens > 0
    assert METRICS_BYTES <= len(text) < METRICS_BYTES + 1024
    assert read_metrics(get(f"{fleet.urls[-2]}/metrics")).started_at != metrics.started_at > 0
    assert json.loads(get(f"{url}/v1/models"))["data"][0]["max_model_len"] == 32768
    assert json.loads(get(f"{url}/v1/chat/completions", {"messages": []}))["usage"]["prompt_tokens"] == 50
    assert get(f"{url}/v1/chat/completions", {"stream": True}).endswith(b"data: [DONE]\n\n")


def test_some_hang_from_the_start_and_others_when_they_are_told_to(fleet: StubFleet) -> None:
    assert [hangs(port) for port in fleet.ports[:3]] == [True, True, False]
    fleet.hang(fleet.ports[3:4])
    assert hangs(fleet.ports[3])
    get(f"{fleet.urls[3]}/answer", {})
    assert not hangs(fleet.ports[3])
