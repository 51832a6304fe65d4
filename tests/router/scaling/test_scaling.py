"""Instances come and go, as users ask for it and by load, while clients are served."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from dualmap.router.cli.admin_call import AdminCallError, admin_call
from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, ask, deployed, held, under_load

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = "simulate: {count: 2}\n"
# Each request is what an instance computes in two seconds, so that few of them, on a slow machine, are a load.
ELASTIC = """
simulate: {count: 1, capacity: {prefill_tokens_per_s: 2000}}
scaling: {min_replicas: 1, max_replicas: 3, up_window_s: 2, down_window_s: 4, cool_down_s: 1}
"""
# Stands in for vLLM's command, so that instances have placement groups: `serve MODEL --host H --port P ...`.
SERVE = '#!/bin/sh\nexec {python} -m dualmap.instances.simulated.cli --model sim --host "$4" --port "$6"\n'


@pytest.fixture
def deploy(tmp_path):
    """Starts a deployment with the configuration."""
    with ExitStack() as started:

        def start(config: str, *arguments: str) -> Deployment:
            return started.enter_context(deployed(*arguments, directory=tmp_path, config=config))

        yield start


def dualmap(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess:
    admin = ("--admin", f"http://127.0.0.1:{deployment.admin_port}")
    command = [sys.executable, "-m", "dualmap", *arguments, *admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)


def scaling(deployment: Deployment) -> dict:
    return admin_call(f"http://127.0.0.1:{deployment.admin_port}", "/admin/scaling")["pools"][0]


def ready_ids(deployment: Deployment) -> list[str]:
    return [i for i, member in deployment.members().items() if member["state"] == "ready"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One deployment for all tests that leave it with instances to scale."""
    with deployed("--simulate", "2", directory=tmp_path_factory.mktemp("shared")) as deployment:
        yield deployment


@pytest.fixture
def pair(shared):
    """The same, brought to two instances; and their ids."""
    assert dualmap(shared, "scale", "2").returncode == 0
    await_that(lambda: len(shared.members()) == len(ready_ids(shared)) == 2, "two members, both ready")
    return shared, *sorted(shared.members())


@contextmanager
def streams(deployment: Deployment, count: int, tokens: int):
    """Long answers on every instance, all of which must come whole."""
    options = {"max_tokens": tokens, "extra_body": {"ignore_eos": True}}
    with ThreadPoolExecutor(count) as clients:
        asked = [clients.submit(ask, deployment, f"{i} writes {time.time_ns()}", **options) for i in range(count)]
        await_that(lambda: all(m["running"] for m in deployment.members().values()), "every instance has streams")
        yield
        for stream in asked:
            stream.result(timeout=WAIT_S)


def test_scaling_by_hand_up_and_down_fails_no_request(pair):
    deployment, *_ = pair
    said = []

    def strike() -> None:
        for count in ("4", "2"):
            said.append(dualmap(deployment, "scale", count))
            await_that(lambda count=count: len(deployment.members()) == int(count), "as many members as asked for")

    assert under_load(deployment, strike) == []
    assert [done.returncode for done in said] == [0, 0], said
    assert said[0].stdout.endswith("4 ready\ndone\n")
    await_that(
        lambda: len(deployment.family.living("dualmap.instances.simulated.cli")) == 4,
        "two servers and keepers are left",
    )
    assert "2 to 2 instances, as told by hand" in dualmap(deployment, "status").stdout


def test_a_drained_instance_ends_its_streams_and_leaves(pair):
    deployment, leaving, staying = pair
    with streams(deployment, 8, 500):
        done = dualmap(deployment, "drain", leaving)
        assert done.returncode == 0, done
        assert f"{leaving} is given no new requests and stops when those it has are done" in done.stdout
    await_that(lambda: ready_ids(deployment) == [staying], "it has left")
    await_that(
        lambda: len(deployment.family.living("dualmap.instances.simulated.cli")) == 2, "its server and keeper are gone"
    )


def test_a_drain_can_be_undone_and_the_last_instance_stays(pair):
    deployment, first, second = pair
    with held(deployment, 8), streams(deployment, 8, 300):
        assert dualmap(deployment, "drain", first, "--no-wait").returncode == 0
        await_that(lambda: ready_ids(deployment) == [second], "it drains")
        refused = dualmap(deployment, "drain", second)
        assert (refused.returncode, refused.stderr) == (1, f"error: {second} is the last instance that is ready\n")
        assert dualmap(deployment, "drain", first, "--undo").returncode == 0
    assert ready_ids(deployment) == [first, second]


def test_a_rolling_restart_that_is_cancelled_gives_who_drains_requests_again(pair):
    deployment, first, second = pair
    before = {i: member["pid"] for i, member in deployment.members().items()}
    with held(deployment, 8), streams(deployment, 8, 300):
        assert dualmap(deployment, "restart", "--rolling", "--no-wait").returncode == 0
        await_that(lambda: len(ready_ids(deployment)) == 1, "one drains")
        cancelled = dualmap(deployment, "restart", "--cancel")
        assert cancelled.returncode == 0, cancelled
        assert cancelled.stdout.endswith("done\n")
        assert ready_ids(deployment) == [first, second]
    assert scaling(deployment)["restart"]["error"] == "it was cancelled"
    assert {i: member["pid"] for i, member in deployment.members().items()} == before
    again = dualmap(deployment, "restart", "--cancel")
    assert (again.returncode, again.stderr) == (1, "error: no restart is under way\n")


@pytest.mark.parametrize("count", [2, 1])
def test_a_rolling_restart_replaces_every_server_and_fails_no_request(pair, count):
    deployment, *_ = pair
    assert dualmap(deployment, "scale", str(count)).returncode == 0
    await_that(lambda: len(deployment.members()) == count, "the others have left")
    before = {i: member["pid"] for i, member in deployment.members().items()}
    said = []
    assert under_load(deployment, lambda: said.append(dualmap(deployment, "restart", "--rolling"))) == []
    assert said[0].returncode == 0, said
    await_that(lambda: sorted(deployment.members()) == sorted(before), "the members are those of before")
    after = {i: member["pid"] for i, member in deployment.members().items()}
    assert all(after[i] != before[i] for i in before)


def test_a_killed_autoscaler_goes_on_with_a_drain_and_with_what_it_was_told(pair):
    deployment, leaving, _ = pair
    assert dualmap(deployment, "scale", "3").returncode == 0
    with held(deployment, 9), streams(deployment, 9, 150):
        assert dualmap(deployment, "drain", leaving, "--no-wait").returncode == 0
        (autoscaler,) = deployment.actor_pids("Autoscaler")
        os.kill(autoscaler, signal.SIGKILL)
    await_that(lambda: leaving not in deployment.members(), "the drained one has left")
    await_that(lambda: _described(deployment).get("max_replicas") == 2, "two are wanted")
    assert len(ready_ids(deployment)) == 2


def _described(deployment: Deployment) -> dict:
    try:
        return scaling(deployment)
    except AdminCallError:
        return {}


def test_load_brings_instances_and_quiet_takes_them_away(deploy):
    deployment = deploy(ELASTIC)
    stop_at = time.monotonic() + WAIT_S
    prompt = "The quick brown fox jumps over the lazy dog. " * 400

    def client(number: int) -> None:
        count = 0
        while len(ready_ids(deployment)) < 2 and time.monotonic() < stop_at:
            ask(deployment, f"{number}-{count} {prompt}", max_tokens=2)
            count += 1

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, range(8)))
    await_that(lambda: len(ready_ids(deployment)) == 1, "one is left when it is quiet")
    log = (deployment.directory / "runs/logs/latest/autoscaler.log").read_text()
    assert " start " in log
    assert " drain sim-" in log


@pytest.mark.release
def test_an_instance_without_a_place_is_named_with_the_reason(deploy, tmp_path):
    (tmp_path / "vllm").write_text(SERVE.format(python=sys.executable))
    (tmp_path / "vllm").chmod(0o755)
    cpus = os.cpu_count()
    config = f"vllm: {{model: sim, replicas: 1, executable: {tmp_path}/vllm, cpus_per_replica: {cpus}}}\n"
    deployment = deploy(config)
    done = dualmap(deployment, "scale", "2")
    assert done.returncode == 1
    assert (
        f"vllm-1 could not be started: it needs {cpus} CPU on one node; the Ray cluster has {cpus} CPU" in done.stderr
    )
    assert ask(deployment, "Who is there?", max_tokens=2) == "gateway-0"
    assert dualmap(deployment, "scale", "1").returncode == 0


def test_external_instances_are_drained_but_neither_started_nor_stopped(deploy, tmp_path):
    outer = deploy(CONFIG)
    addresses = [member["address"] for member in outer.members().values()]
    with deployed(*(f"--instance=http://{address}" for address in addresses), directory=tmp_path) as inner:
        refused = dualmap(inner, "scale", "3")
        assert (refused.returncode, "they are not started here" in refused.stderr) == (1, True), refused
        first, second = inner.members()
        drained = dualmap(inner, "drain", first)
        assert drained.returncode == 0, drained
        assert "it is not stopped" in drained.stdout
        assert "scaling  none" in dualmap(inner, "status").stdout
        await_that(lambda: ready_ids(inner) == [second], "only the other is given requests")
        assert ask(inner, "Who is there?", max_tokens=2) == "gateway-0"
        assert len(outer.family.living("dualmap.instances.simulated.cli")) == 4
