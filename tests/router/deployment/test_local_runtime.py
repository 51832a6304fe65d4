"""A deployment without Ray as users start it: it has none, it ends with its command, and it does what its file says."""

import json
import os
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dualmap.router.cli.admin_call import AdminCallError, admin_call
from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, ask, deployed
from tests.instances.conftest import starting_sims


@pytest.fixture(scope="module")
def urls():
    with starting_sims() as start:
        yield [f"http://127.0.0.1:{start().port}" for _ in range(2)]


@pytest.fixture
def flags(urls):
    return [f"--instance={url}" for url in urls]


def sockets(deployment: Deployment) -> set[Path]:
    """Of its background process."""
    (pid,) = deployment.actor_pids("Fleet")
    inodes = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {Path(line[7]) for line in lines if len(line) > 7 and f"socket:[{line[6]}]" in inodes}


def test_no_process_has_ray_and_none_is_left_in_the_end(flags, tmp_path):
    with deployed(*flags, directory=tmp_path) as deployment:
        assert ask(deployment, "Hello.", max_tokens=2) == "gateway-0"
        processes = deployment.family.living()
        assert len(processes) == 3, processes
        for pid in processes:
            assert "_raylet" not in Path(f"/proc/{pid}/maps").read_text()
        (path,) = sockets(deployment)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert deployment.output[0] == "2 of 2 instances ready\n"
        assert deployment.stop(signal.SIGINT) == 0, deployment.output
        assert deployment.output[-1] == "stopping\n"
        await_that(lambda: not deployment.family.living(), "every process has ended")
        assert not path.parent.exists()


def test_a_command_that_is_asked_to_end_lets_answers_end_first(flags, tmp_path):
    with deployed(*flags, directory=tmp_path) as deployment, ThreadPoolExecutor(1) as client:
        options = {"max_tokens": 60, "extra_body": {"ignore_eos": True}}
        asked = client.submit(ask, deployment, "A long story.", **options)
        await_that(lambda: sum(m["running"] for m in deployment.status()["members"]), "it runs")
        assert deployment.stop(signal.SIGTERM) == 0, deployment.output
        assert asked.result(WAIT_S) == "gateway-0"


def test_a_killed_command_leaves_no_process_behind(flags, tmp_path):
    with deployed(*flags, directory=tmp_path) as deployment:
        deployment.process.kill()
        await_that(lambda: not deployment.family.living(), "every process has ended")


def test_a_killed_gateway_comes_back_and_that_is_said(flags, tmp_path):
    with deployed(*flags, directory=tmp_path) as deployment:
        before = deployment.status()["pid"]
        for pid in deployment.actor_pids("GatewayActor"):
            os.kill(pid, signal.SIGKILL)

        def back() -> bool:
            try:
                return deployment.status()["pid"] != before and deployment.ready_count() == 2
            except OSError:
                return False

        await_that(back, "another gateway serves")
        assert ask(deployment, "Are you back?", max_tokens=2) == "gateway-0"
        assert "gateway-0 ended (signal 9) and is started again\n" in deployment.output


def test_another_instance_in_the_file_is_used_and_one_that_is_gone_from_it_is_not(urls, tmp_path):
    first, second = urls
    with deployed(directory=tmp_path, config=json.dumps({"instances": [first]})) as deployment:
        assert set(deployment.members()) == {first.removeprefix("http://")}
        (tmp_path / "dualmap.yaml").write_text(json.dumps({"instances": [second]}))
        deployment.process.send_signal(signal.SIGHUP)
        await_that(lambda: set(deployment.members()) == {second.removeprefix("http://")}, "the other one is used")
        assert ask(deployment, "Who is there?", max_tokens=2) == "gateway-0"


def test_a_picker_runs_without_ray_too_and_changes_no_role(flags, tmp_path):
    with deployed(*flags, directory=tmp_path, command="pick") as deployment:
        await_that(lambda: deployment.ready_count() == 2, "it knows both")
        assert len(deployment.family.living()) == 3
        order = {"instance_id": next(iter(deployment.members())), "role": "prefill"}
        with pytest.raises(AdminCallError, match="this is an endpoint picker"):
            admin_call(f"http://127.0.0.1:{deployment.admin_port}", "/admin/role", order)


def test_a_runtime_that_cannot_be_is_refused_in_words(tmp_path):
    (tmp_path / "dualmap.yaml").write_text("runtime: local\nsimulate: {count: 1}\n")
    deployment = Deployment("dualmap.yaml", directory=tmp_path)
    try:
        assert deployment.process.wait(timeout=WAIT_S) == 2
        deployment.await_ended()
        said = "runtime: the first pool starts servers, which needs Ray: leave it out, or set it to auto"
        assert said in "".join(deployment.output)
        assert "Traceback" not in "".join(deployment.output)
    finally:
        deployment.clean_up()


def test_a_port_in_use_is_one_clear_line(flags, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        deployment = Deployment(*flags, f"--port={port}", directory=tmp_path)
        try:
            assert deployment.process.wait(timeout=WAIT_S) == 1
            deployment.await_ended()
            assert deployment.output == [f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"]
        finally:
            deployment.clean_up()
