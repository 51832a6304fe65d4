"""A pool of servers as they are deployed, unlike in all there is: each request meets one that can answer it, while
servers come and go."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment
from tests.router.deployment.mixed_fleet import ADDRESSES, MixedFleet
from tests.router.deployment.mixed_traffic import Traffic

NAMED_HOSTS = Path(__file__).parents[2] / "named_hosts"
REQUESTS = 2_000
A_FEW = 100

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path):
    fleet = MixedFleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture
def deployment(fleet: MixedFleet):
    fleet.write_config()
    for server in fleet.servers.values():
        server.start()
    for server in fleet.servers.values():
        server.await_listening()
    path = os.pathsep.join(filter(None, (str(NAMED_HOSTS), os.environ.get("PYTHONPATH"))))
    env = {"PYTHONPATH": path, "DUALMAP_TEST_HOSTS": str(fleet.hosts)}
    deployment = Deployment("dualmap.yaml", directory=fleet.directory, env=env)
    try:
        deployment.await_started()
        yield deployment
    finally:
        deployment.clean_up()


@pytest.fixture
def traffic(fleet: MixedFleet, deployment: Deployment):
    traffic = Traffic(deployment.port, fleet.kinds, fleet.ids)
    yield traffic
    traffic.close()


def states(deployment: Deployment, fleet: MixedFleet, name: str) -> list[str]:
    """Of the instances that the server is."""
    members = deployment.members()
    return [members[instance_id]["state"] for instance_id in fleet.ids[name] if instance_id in members]


def await_state(deployment: Deployment, fleet: MixedFleet, name: str, *expected: str) -> None:
    await_that(lambda: states(deployment, fleet, name) == list(expected), f"{name} is {expected}")


def one_leaves_the_file_and_comes_back(fleet: MixedFleet, deployment: Deployment, traffic: Traffic) -> None:
    fleet.write_config("short")
    traffic.send(A_FEW)
    await_state(deployment, fleet, "short")
    server = fleet.servers["short"]
    server.end()
    fleet.write_config()
    traffic.send(A_FEW)
    await_that(lambda: states(deployment, fleet, "short") not in ([], ["ready"]), "it is known, and cannot be used")
    server.start("--load-s", "5")
    server.await_listening()
    await_state(deployment, fleet, "short", "starting")
    traffic.send(A_FEW)
    await_state(deployment, fleet, "short", "ready")


def addresses_of_the_name_change(fleet: MixedFleet, deployment: Deployment, traffic: Traffic) -> None:
    first, last = f"named-{ADDRESSES[0]}", f"named-{ADDRESSES[3]}"
    fleet.resolves_to(*ADDRESSES)
    traffic.send(A_FEW)
    await_state(deployment, fleet, last, "ready")
    fleet.resolves_to(*ADDRESSES[1:])
    traffic.send(A_FEW)
    await_state(deployment, fleet, first)
    fleet.servers[first].end()
    traffic.send(A_FEW)


def one_is_killed_and_comes_back(fleet: MixedFleet, deployment: Deployment, traffic: Traffic) -> None:
    """It has stopped before: what it has been sent since then has not begun."""
    server = fleet.servers["keyed"]
    with traffic.plain_only("keyed"):
        server.process.send_signal(signal.SIGSTOP)
    traffic.send(A_FEW)
    await_that(lambda: traffic.is_held_up or traffic.all_answered, "requests wait for the server that has stopped")
    server.end(signal.SIGKILL)
    traffic.send(A_FEW)
    await_state(deployment, fleet, "keyed", "lost")
    server.start()
    server.await_listening()
    await_state(deployment, fleet, "keyed", "ready")
    traffic.send(A_FEW)


def those_behind_the_balancer_are_replaced(fleet: MixedFleet, deployment: Deployment, traffic: Traffic) -> None:
    leaving, staying, coming = (fleet.servers[f"balanced-{number}"] for number in range(3))
    with traffic.plain_only("balanced"):
        fleet.behind_service.backends = (staying.port, coming.port)
        traffic.send(A_FEW)
        leaving.end()
        fleet.behind_service.backends = (coming.port,)
        traffic.send(A_FEW)
        staying.end()
        traffic.await_answers()
    await_that(lambda: coming.port in fleet.behind_service.given, "the server that came is given connections")
    traffic.send(A_FEW)


def test_each_request_meets_a_server_that_can_answer_it_while_servers_come_and_go(fleet, deployment, traffic):
    expected = len(fleet.instances) - 1 + 3  # the name has three addresses
    await_that(lambda: deployment.ready_count() == expected, "all can be used")
    for strike in (
        one_leaves_the_file_and_comes_back,
        addresses_of_the_name_change,
        one_is_killed_and_comes_back,
        those_behind_the_balancer_are_replaced,
    ):
        traffic.send(A_FEW)
        strike(fleet, deployment, traffic)
        traffic.await_answers()
    traffic.send(REQUESTS - traffic.sent)
    traffic.await_answers()
    assert traffic.failures[:10] == [], len(traffic.failures)
    assert set(traffic.answered) == set(fleet.ids)
    assert traffic.sent == REQUESTS == traffic.answered.total()
