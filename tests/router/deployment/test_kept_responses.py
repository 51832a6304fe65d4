"""Two gateways in front of servers that keep responses: a turn finds its server whichever gateway it comes to, and
whichever part of the deployment has been killed in between."""

import hashlib
import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import LOCAL_BEFORE_RAY, Deployment, deployed
from tests.kept_server import KeptServer

KEY = "dm-key-of-a"
SESSIONS = 12


@pytest.fixture
def servers():
    servers = [KeptServer() for _ in range(3)]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(params=LOCAL_BEFORE_RAY)
def deployment(request, tmp_path, servers):
    sha256 = hashlib.sha256(KEY.encode()).hexdigest()
    (tmp_path / "keys.yaml").write_text(f"keys: [{{sha256: {sha256}, tenant: a}}]")
    config = {"instances": [{"url": server.url} for server in servers], "runtime": request.param}
    config["gateway"] = {"count": 2, "api_keys_file": str(tmp_path / "keys.yaml")}
    with deployed(directory=tmp_path, config=json.dumps(config)) as deployment:
        yield deployment


def turn(deployment: Deployment, before: str | None = None) -> str:
    """The id of the response. Each is a connection of its own, which the kernel gives to one of the gateways."""
    body = {"model": "m", "input": "hello", "previous_response_id": before}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{deployment.port}/v1/responses"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        return json.load(answer)["id"]


def pids(deployment: Deployment, ids: int = 0) -> set[int]:
    """Of both gateways, once each serves with all instances and knows of so many responses; else nothing."""
    try:
        found = [deployment.status(deployment.admin_port + i) for i in range(2)]
    except (OSError, urllib.error.URLError):
        return set()
    ready = all(sum(m["state"] == "ready" for m in status["members"]) == 3 for status in found)
    whole = all(len(s["gateways"]) == 2 and s["kept_states"] >= ids for s in found)
    return {s["pid"] for s in found} if ready and whole else set()


def kill_both(deployment: Deployment, ids: int) -> None:
    """One after the other, once it knows all that the other one does."""
    await_that(lambda: pids(deployment, ids), "both gateways know of all responses")
    for victim in pids(deployment):
        os.kill(victim, signal.SIGKILL)
        await_that(lambda v=victim: (now := pids(deployment, ids)) and v not in now, "both gateways serve again")


def test_a_turn_finds_its_server_at_every_gateway_and_after_each_of_them_was_restarted(deployment, servers):
    await_that(lambda: pids(deployment), "both gateways serve")
    last = [turn(deployment) for _ in range(SESSIONS)]
    last = [turn(deployment, before) for before in last]
    kill_both(deployment, 2 * SESSIONS)
    last = [turn(deployment, before) for before in last]
    await_that(lambda: pids(deployment, 3 * SESSIONS), "both gateways know of all responses")
    (fleet,) = deployment.actor_pids("Fleet")
    epoch = deployment.status()["epoch"]
    os.kill(fleet, signal.SIGKILL)
    await_that(lambda: deployment.status()["epoch"] > epoch and pids(deployment), "a Fleet that knows as much")
    kill_both(deployment, 3 * SESSIONS)
    for before in last:
        turn(deployment, before)
    assert sum(len(server.responses) for server in servers) == 4 * SESSIONS
