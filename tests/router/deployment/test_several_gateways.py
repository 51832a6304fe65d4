"""Two gateways on one port, as users start them: what they agree on, and what is lost when a part dies."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import RUNTIMES, Deployment, ask, deployed, held, under_load
from tests.instances.conftest import starting_sims

CONFIG = "gateway: {count: 2}\nscheduler: {block_tokens: 64}\n"
AWAY_S = 8.0  # longer than any time-out with which gateways or instances wait for Fleet


@pytest.fixture(scope="module")
def urls():
    """Of servers that are there already."""
    with starting_sims() as start:
        yield [f"http://127.0.0.1:{start().port}" for _ in range(3)]


@pytest.fixture(scope="module", params=RUNTIMES)
def deployment(request, tmp_path_factory):
    if request.param == "ray":
        config = f"{CONFIG}simulate: {{count: 3}}\n"
    else:
        config = f"{CONFIG}instances: {json.dumps(request.getfixturevalue('urls'))}\n"
    with deployed(directory=tmp_path_factory.mktemp("gateways"), config=config) as deployment:
        yield deployment


def statuses(deployment: Deployment) -> list[dict]:
    return [deployment.status(deployment.admin_port + i) for i in range(2)]


def both_serve(deployment: Deployment) -> bool:
    """Each knows all instances, and of the other."""
    try:
        found = statuses(deployment)
    except OSError:
        return False
    ready = all(sum(m["state"] == "ready" for m in status["members"]) == 3 for status in found)
    return ready and all(len(status["gateways"]) == 2 for status in found)


def test_both_gateways_serve_the_port_and_use_the_same_epoch(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    answered = {ask(deployment, f"Question {i}", max_tokens=4) for i in range(40)}
    assert answered == {"gateway-0", "gateway-1"}
    first, second = statuses(deployment)
    assert first["epoch"] == second["epoch"]
    assert [m["instance_id"] for m in first["members"]] == [m["instance_id"] for m in second["members"]]


def test_each_gateway_knows_what_the_other_has_booked(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")

    def seen() -> bool:
        own, others = zip(
            *[
                [sum(m[which] for m in s["members"]) for which in ("running", "others_running")]
                for s in statuses(deployment)
            ],
            strict=True,
        )
        return min(own) > 0 and own == others[::-1]

    with held(deployment, 24):  # each at either gateway, by chance: of 8, all are at the same one once in 128 runs
        await_that(seen, "what runs for the one is known to the other")


def test_a_hot_prefix_gets_the_same_depth_in_both(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    opening = "The same opening for everybody. " * 40

    def crowd(number: int) -> None:
        messages = [{"role": "system", "content": opening}, {"role": "user", "content": f"{number} differs. " * 40}]
        with deployment.client() as client:
            client.chat.completions.create(model="sim", messages=messages, max_tokens=1)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(crowd, range(80)))

    def agreed() -> bool:
        first, second = (status["prefix_depths"] for status in statuses(deployment))
        return first["epoch"] == second["epoch"] > 0 and first["keys"] == second["keys"] > 0

    await_that(agreed, "both use the depths of one epoch")


def test_a_killed_gateway_takes_only_what_it_carried_and_comes_back(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    victim = statuses(deployment)[0]["pid"]

    def strike() -> None:
        os.kill(victim, signal.SIGKILL)
        await_that(lambda: both_serve(deployment) and statuses(deployment)[0]["pid"] != victim, "it is back")

    failed = under_load(deployment, strike)
    assert len(failed) <= 8, failed  # at most what it had of each client: a request, and a connection not accepted yet
    assert not any("503" in error for error in failed), "it listened before it knew of any instance"


def test_a_client_that_connects_once_a_gateway_is_gone_finds_the_other(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    victim, other = statuses(deployment)
    os.kill(victim["pid"], signal.SIGKILL)
    await_that(lambda: not is_listening(victim["pid"]), "its sockets are closed")
    answered = {ask(deployment, f"Who is left for {i}?", max_tokens=1) for i in range(5)}
    assert other["gateway_id"] in answered
    await_that(lambda: both_serve(deployment), "it is back")


def is_listening(pid: int) -> bool:
    """Whether the process has any file open: what is killed closes all it has before it is gone."""
    try:
        return bool(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def test_gateways_serve_on_while_fleet_is_away_and_agree_again_when_it_is_back(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    (fleet,) = deployment.actor_pids("Fleet")

    def strike() -> None:
        os.kill(fleet, signal.SIGSTOP)
        try:
            time.sleep(AWAY_S)
        finally:
            os.kill(fleet, signal.SIGCONT)
        await_that(lambda: both_serve(deployment), "they hear of each other again")

    assert under_load(deployment, strike) == []
    first, second = statuses(deployment)
    assert first["epoch"] == second["epoch"]


def test_a_killed_fleet_is_followed_by_one_that_knows_as_much(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    epoch = statuses(deployment)[0]["epoch"]
    (fleet,) = deployment.actor_pids("Fleet")

    def strike() -> None:
        os.kill(fleet, signal.SIGKILL)
        await_that(lambda: all(s["epoch"] > epoch for s in statuses(deployment)), "a higher epoch")
        await_that(lambda: both_serve(deployment), "they hear of each other again")

    assert under_load(deployment, strike) == []


def restart_gateways(deployment: Deployment) -> None:
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    command = [sys.executable, "-m", "dualmap", "restart", "--gateways", "--admin", admin]
    subprocess.run(command, check=True, timeout=WAIT_S, env=deployment.family.environment)


def test_gateways_are_replaced_while_none_of_their_answers_is_lost(deployment):
    await_that(lambda: both_serve(deployment), "both gateways know all instances")
    pids = {status["pid"] for status in statuses(deployment)}

    def strike() -> None:
        restart_gateways(deployment)
        await_that(lambda: pids.isdisjoint(status["pid"] for status in statuses(deployment)), "others answer")
        (terminated, _) = statuses(deployment)
        os.kill(terminated["pid"], signal.SIGTERM)
        await_that(lambda: statuses(deployment)[0]["pid"] != terminated["pid"], "the one that was ended is followed")

    with held(deployment, 4):
        assert under_load(deployment, strike) == []
    await_that(lambda: len(deployment.actor_pids("GatewayActor")) == 2, "those that were replaced are gone")
    assert ask(deployment, "Who answers?", max_tokens=4) in ("gateway-0.2", "gateway-1.1")
