"""Adapters that are loaded through the gateway of a deployment: on every server, and on one that comes later, whichever
part of the deployment has been killed in between."""

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import LOCAL_BEFORE_RAY, Deployment, deployed
from tests.kept_server import KeptServer

SQL = {"lora_name": "sql", "lora_path": "/adapters/sql"}
LOADED = {"sql": "/adapters/sql"}


class Servers:
    """Two, each at a port of its own."""

    def __init__(self) -> None:
        self.all = [KeptServer(), KeptServer()]

    def replace(self, place: int) -> KeptServer:
        """Another one at the same port, which has loaded nothing."""
        port = self.all[place].port
        self.all[place].close()
        self.all[place] = KeptServer(port=port)
        return self.all[place]


@pytest.fixture
def servers():
    servers = Servers()
    yield servers
    for server in servers.all:
        server.close()


@pytest.fixture(params=LOCAL_BEFORE_RAY)
def deployment(request, tmp_path, servers):
    config = {"instances": [{"url": server.url} for server in servers.all], "runtime": request.param}
    with deployed(directory=tmp_path, config=json.dumps(config)) as deployment:
        await_that(lambda: deployment.ready_count() == 2, "both servers are used")
        yield deployment


def call(deployment: Deployment, path: str, body: dict | None = None) -> tuple[int, dict | str]:
    url = f"http://127.0.0.1:{deployment.port}{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def models(deployment: Deployment) -> list[str]:
    return [card["id"] for card in call(deployment, "/v1/models")[1]["data"]]


def serves(deployment: Deployment) -> bool:
    try:
        return deployment.ready_count() == 2
    except OSError:
        return False


def test_an_adapter_is_on_every_server_and_on_those_that_come_later(deployment, servers):
    servers.all[1].refuses = 507
    status, said = call(deployment, "/v1/load_lora_adapter", SQL)
    assert (status, said["error"]["message"]) == (507, f"{servers.all[1].port} does not load")
    assert [server.adapters for server in servers.all] == [{}, {}]
    servers.all[1].refuses = 0

    assert call(deployment, "/v1/load_lora_adapter", SQL) == (200, "added")
    assert [server.adapters for server in servers.all] == [LOADED, LOADED]
    assert models(deployment) == ["m", "sql"]
    assert call(deployment, "/v1/completions", {"model": "sql", "prompt": "x"})[0] == 200

    later = servers.replace(0)
    await_that(lambda: later.adapters == LOADED, "a server that comes later has it")
    await_that(lambda: serves(deployment), "it is used")

    gateway = deployment.status()["pid"]
    epoch = deployment.status()["epoch"]
    (fleet,) = deployment.actor_pids("Fleet")
    os.kill(fleet, signal.SIGKILL)
    await_that(lambda: deployment.status()["epoch"] > epoch, "another Fleet")
    os.kill(gateway, signal.SIGKILL)
    await_that(lambda: serves(deployment) and deployment.status()["pid"] != gateway, "another gateway")
    later = servers.replace(1)
    await_that(lambda: later.adapters == LOADED, "the other Fleet knows of it")
    await_that(lambda: "sql" in models(deployment) and serves(deployment), "it is used")

    assert call(deployment, "/v1/unload_lora_adapter", {"lora_name": "sql"}) == (200, "removed")
    assert [server.adapters for server in servers.all] == [{}, {}]
    assert models(deployment) == ["m"]
    assert call(deployment, "/v1/completions", {"model": "sql", "prompt": "x"})[0] == 404
