"""Servers that run on their own behind a whole deployment: the banner, a killed Watcher, names and balancers."""

import json
import os
import signal
import socket
import threading

import pytest

from dualmap.router.cli.main import main
from tests.balancer import Balancer
from tests.conftest import WAIT_S, await_that
from tests.deployment import LOCAL_BEFORE_RAY, ask, deployed
from tests.instances.conftest import SimProcess

TOKENS = {"local": 500, "ray": 2000}  # of an answer that runs on until another Watcher watches


@pytest.fixture(scope="module")
def sims():
    processes = [SimProcess("--prefill-tokens-per-s", "1000000") for _ in range(2)]
    yield processes
    for process in processes:
        process.clean_up()


@pytest.fixture(scope="module")
def nobody():
    """A port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="module", params=LOCAL_BEFORE_RAY)
def deployment(request, sims, nobody, tmp_path_factory):
    urls = [f"http://127.0.0.1:{port}" for port in (sims[0].port, sims[1].port, nobody)]
    config = json.dumps({"instances": urls, "runtime": request.param})
    with deployed(directory=tmp_path_factory.mktemp("watched"), config=config) as deployment:
        yield deployment


def test_the_banner_says_who_is_ready_and_why_another_is_not(deployment, nobody):
    line = next(line for line in deployment.output if "instances ready" in line)
    assert line == f"2 of 3 instances ready: http://127.0.0.1:{nobody}: connection refused\n"
    assert len(deployment.actor_pids("Watcher")) == 1
    assert not deployment.family.living("ray::InstanceActor")


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param(("Watcher",), id="Watcher", marks=pytest.mark.release),
        pytest.param(("Watcher", "Fleet"), id="both"),
    ],
)
def test_a_killed_watcher_cuts_off_no_answer_and_is_back(request, deployment, sims, killed: tuple[str, ...]):
    before = {i: member["incarnation"] for i, member in deployment.members().items() if member["state"] == "ready"}
    assert len(before) == 2
    pids = {pid for name in killed for pid in deployment.actor_pids(name)}
    tokens = TOKENS[request.node.callspec.params["deployment"]]
    options = {"max_tokens": tokens, "stream": True, "extra_body": {"ignore_eos": True}}
    with deployment.client() as client:
        messages = [{"role": "user", "content": "A long book."}]
        stream = iter(client.chat.completions.create(model="sim", messages=messages, **options))
        next(stream)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        ends: list[str | None] = []

        def back() -> bool:
            living = deployment.actor_pids("Watcher")
            return bool(living) and pids.isdisjoint(living) and deployment.ready_count() == 2

        reader = threading.Thread(target=lambda: ends.extend(c.choices[0].finish_reason for c in stream if c.choices))
        reader.start()
        await_that(back, "another Watcher watches")
        for number in range(8):
            assert ask(deployment, f"Still there, {number}?", max_tokens=2)
        after = {i: member["incarnation"] for i, member in deployment.members().items() if member["state"] == "ready"}
        assert after == before
        reader.join(WAIT_S)
        assert ends[-1] == "length"


def test_one_of_them_is_drained_and_takes_requests_again(deployment, sims):
    instance_id = f"127.0.0.1:{sims[0].port}"
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    assert main(["drain", instance_id, "--no-wait", "--admin", admin]) == 0
    await_that(lambda: deployment.members()[instance_id]["state"] == "draining", "it drains")
    assert main(["drain", instance_id, "--undo", "--admin", admin]) == 0
    await_that(lambda: deployment.members()[instance_id]["state"] == "ready", "it is used again")


def test_a_balanced_url_is_served_all_the_time(sims, tmp_path):
    balancer = Balancer([sim.port for sim in sims])
    try:
        with deployed("--instance", balancer.url, directory=tmp_path) as deployment:
            (member,) = deployment.members().values()
            assert member["reason"] == "a load balancer before several servers"
            for number in range(40):
                assert ask(deployment, f"Question {number}", max_tokens=2)
            (later,) = deployment.members().values()
            assert later["incarnation"] == member["incarnation"]
    finally:
        balancer.close()
