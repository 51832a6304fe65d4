"""Two deployments side by side, told apart by their names: on one machine, and on one Ray cluster."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, ask, deployed
from tests.instances.conftest import starting_sims

NAMES = ("chat", "code")


@pytest.fixture
def isolated(monkeypatch):
    """No deployment of anybody else is found. The path is short, for there are sockets below it."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "dualmap", *arguments], capture_output=True, text=True, timeout=WAIT_S)
    return done.returncode, done.stdout, done.stderr


def shown(name: str) -> dict:
    code, out, error = command("status", "--json", "--deployment", name)
    assert code == 0, error
    return json.loads(out)


def check_apart(deployments: dict[str, Deployment], members: dict[str, set[str]]) -> None:
    """By name: each has instances of its own, and is found by its name alone."""
    for name, deployment in deployments.items():
        await_that(lambda d=deployment: d.ready_count() == 1, "its instance is ready")
        assert ask(deployment, "Hello.", max_tokens=2) == "gateway-0"
        status = shown(name)
        assert status["pid"] == deployment.status()["pid"]
        assert {member["instance_id"] for member in status["members"]} == members[name]
        assert [gateway["gateway_id"] for gateway in status["gateways"]] == ["gateway-0"]
    code, _, error = command("status")
    assert code == 1
    for name, deployment in deployments.items():
        assert f"{name}: http://127.0.0.1:{deployment.admin_port}" in error


def test_two_on_one_machine_share_no_instance_log_or_socket_and_are_chosen_by_name(isolated, tmp_path):
    with starting_sims() as start:
        urls = {name: f"http://127.0.0.1:{start().port}" for name in NAMES}
        members = {name: {url.removeprefix("http://")} for name, url in urls.items()}
        flags = {name: ("--instance", url, "--deployment", name) for name, url in urls.items()}
        with (
            deployed(*flags["chat"], directory=tmp_path) as chat,
            deployed(*flags["code"], directory=tmp_path) as code,
        ):
            check_apart({"chat": chat, "code": code}, members)
            for name in NAMES:
                latest = tmp_path / "runs" / "logs" / name / "latest"
                assert {path.name for path in latest.iterdir()} == {"fleet.log", "gateway-0.log", "processes.log"}
                assert members[name].pop() in (latest / "fleet.log").read_text()
            assert command("scale", "2", "--deployment", "code")[2].startswith("error: ")
            again = command("up", *flags["chat"], "--port", "0", "--admin-port", "0")
            assert again[0] == 1
            assert again[2].startswith("error: a deployment named chat runs on this machine already (chat: http://")
            assert command("up", *flags["chat"][:2], "--port", str(chat.port))[0] == 1
            assert chat.stop(signal.SIGINT) == 0
            assert ask(code, "Are you there?", max_tokens=2) == "gateway-0"
            assert command("status")[0] == 0  # it is the only one
    assert list(isolated.iterdir()) == []


def test_what_a_killed_one_left_on_the_disk_goes_when_another_starts(isolated, tmp_path):
    with starting_sims() as start:
        flags = ("--instance", f"http://127.0.0.1:{start().port}")
        with deployed(*flags, directory=tmp_path) as killed:
            killed.process.kill()
            await_that(lambda: not killed.family.living(), "every process has ended")
            assert len(list(isolated.glob("dualmap-*"))) == 2
        with deployed(*flags, directory=tmp_path):
            assert len(list(isolated.glob("dualmap-*"))) == 2
    assert list(isolated.iterdir()) == []
    starts = [path for path in (tmp_path / "runs" / "logs").iterdir() if not path.is_symlink()]
    assert len(starts) == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.release
def test_what_rays_sessions_keep_goes_in_the_end_also_of_one_that_was_killed(isolated, tmp_path):
    with deployed("--simulate", "1", directory=tmp_path) as killed:
        killed.process.kill()
        await_that(lambda: not killed.family.living(), "every process has ended")
    (left,) = isolated.glob("dualmap-ray-*")
    assert list(left.glob("ray/session_2*"))
    with deployed("--simulate", "1", directory=tmp_path):
        assert not left.exists()
    assert list(isolated.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_two_on_one_ray_cluster_share_no_actor(isolated, tmp_path):
    from tests.router.deployment.first_node import first_node

    cluster = await_that(first_node, "a node of Ray has started")
    try:
        flags = ("--simulate", "1", "--ray-address", cluster.address, "--deployment")
        with (
            deployed(*flags, "chat", directory=tmp_path) as chat,
            deployed(*flags, "code", directory=tmp_path) as code,
        ):
            check_apart({"chat": chat, "code": code}, {name: {"sim-0"} for name in NAMES})
            assert chat.stop(signal.SIGINT) == 0
            assert ask(code, "Are you there?", max_tokens=2) == "gateway-0"
    finally:
        cluster.shutdown()
