"""How Ray is told to listen and whom to let in: the environment alone, then real clusters."""

import os
import signal
import socket
import stat
import subprocess
import sys
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from dualmap.router.deployment import ray_access as module
from dualmap.router.deployment.ray_access import FOLDER_PREFIX, TOKEN_PATH, listens, ray_access, why_not_joined
from tests.conftest import WAIT_S, ProcessFamily, await_that
from tests.deployment import Deployment, ask, deployed, free_port

DEAD_PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
LISTEN = "0A"


def test_a_cluster_of_ours_has_a_token_of_its_own_in_a_folder_for_nobody_else(tmp_path):
    environment = {"RAY_TMPDIR": str(tmp_path)}
    with ray_access(None, environment, tmp_path):
        token = Path(environment["RAY_AUTH_TOKEN_PATH"])
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
        assert environment["RAY_TMPDIR"] in (str(token.parent), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert environment == {"RAY_TMPDIR": str(tmp_path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@pytest.mark.parametrize(
    "given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "abc"}, {"RAY_AUTH_TOKEN_PATH": "/run/token"}]
)
def test_what_the_environment_says_of_tokens_holds(given, tmp_path):
    environment = {"RAY_TMPDIR": str(tmp_path), **given}
    with ray_access(None, environment, tmp_path):
        assert {name: value for name, value in environment.items() if "AUTH" in name} == given
        assert list(tmp_path.rglob("auth_token")) == []
    assert list(tmp_path.iterdir()) == []


def test_sessions_are_in_the_folder_that_goes_where_a_sockets_path_has_room_for_it(tmp_path, monkeypatch):
    environment = {"RAY_TMPDIR": str(tmp_path)}
    for length, moved in ((len(str(tmp_path)) + 40, True), (10, False)):
        monkeypatch.setattr(module, "LONGEST_TMPDIR", length)
        with ray_access(None, environment, tmp_path):
            assert (Path(environment["RAY_TMPDIR"]).parent == tmp_path) is moved
        assert environment["RAY_TMPDIR"] == str(tmp_path)


@pytest.mark.parametrize(
    ("given", "at_home", "asked", "mode"),
    [
        ({}, False, True, None),
        ({}, True, True, "token"),
        ({}, True, False, None),
        ({"RAY_AUTH_TOKEN": "abc"}, False, True, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, False, True, "token"),
        ({"RAY_AUTH_MODE": "disabled"}, True, True, "disabled"),
    ],
)
def test_a_cluster_that_asks_for_a_token_is_shown_the_one_that_is_there(
    given, at_home, asked, mode, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "asks_for_token", lambda address, environment: asked)
    if at_home:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("abc")
    environment = dict(given)
    with ray_access("10.0.0.1:6379", environment, tmp_path):
        assert environment.get("RAY_AUTH_MODE") == mode
        assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment, "other machines have to reach this one"


def test_a_cluster_that_cannot_be_joined_is_told_with_what_may_be_wrong():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert "if the cluster asks for a token, name it in RAY_AUTH_TOKEN" in why_not_joined(address, {})
        assert "is the token here the cluster's" in why_not_joined(address, {"RAY_AUTH_MODE": "token"})
    for nothing in (address, "auto", "host:port", "127.0.0.1:99999999"):
        assert why_not_joined(nothing, {}).startswith(f"does a Ray cluster run at {nothing}, and can")


# Real clusters.


def listening(family: ProcessFamily) -> set[tuple[str, int]]:
    """Addresses and ports on which processes of the family listen for TCP connections."""
    addresses = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                address, _, port = fields[1].rpartition(":")
                addresses[f"socket:[{fields[9]}]"] = _address(bytes.fromhex(address)), int(port, 16)
    found = set()
    for pid in family.living():
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found.add(addresses.get(os.readlink(path)))
            except OSError:  # it has just been closed
                continue
    return {place for place in found if place is not None}


def _address(raw: bytes) -> str:
    """As the kernel shows it: words of 32 bits, each in the machine's own order."""
    words = (raw[i : i + 4] for i in range(0, len(raw), 4))
    address = ip_address(b"".join(word[::-1] if sys.byteorder == "little" else word for word in words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def token_path(family: ProcessFamily) -> Path:
    """As every process of Ray's knows it."""
    (gateway, *_) = family.living("GatewayActor")
    variables = Path(f"/proc/{gateway}/environ").read_text().split("\0")
    (path,) = (value for name, _, value in (v.partition("=") for v in variables) if name == TOKEN_PATH)
    assert FOLDER_PREFIX in path
    return Path(path)


def dualmap(deployment: Deployment, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dualmap", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=deployment.directory,
        env={**os.environ, **DEAD_PROXIES},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_all_but_the_configured_port_is_for_this_machine_and_nothing_goes_over_a_proxy(tmp_path):
    """Home is no folder in which Ray could keep a token."""
    home, seen = tmp_path / "file", free_port()
    home.touch()
    outside = subprocess.Popen([sys.executable, "-m", "dualmap", "sim-instance", "--port", str(seen)])
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}\n')
    environment = {**DEAD_PROXIES, "HOME": str(home)}
    flags = ("--simulate", "1", "--instance", f"http://127.0.0.1:{seen}", "--host", "0.0.0.0")
    try:
        with deployed(*flags, directory=tmp_path, env=environment) as deployment:
            await_that(lambda: deployment.ready_count() == 2, "both serve")
            ask(deployment, "Hello", max_tokens=2)
            places = listening(deployment.family)
            assert len(places) >= 8, "Ray's, a gateway's, an instance's"
            assert {port for address, port in places if not ip_address(address).is_loopback} == {deployment.port}
            admin = ("--admin", f"http://127.0.0.1:{deployment.admin_port}")
            assert "2 of 2" in dualmap(deployment, "status", *admin)
            token = token_path(deployment.family)
            assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
            out = ("--out", str(tmp_path / "run.jsonl"))
            dualmap(deployment, "replay", str(trace), "--target", f"http://localhost:{deployment.port}", *out)
            dualmap(deployment, "drain", f"127.0.0.1:{seen}", *admin)
            assert deployment.stop(signal.SIGTERM) == 0
    finally:
        outside.kill()
        outside.wait()
    assert not token.parent.exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.release
def test_a_cluster_started_by_hand_with_a_token_is_joined(tmp_path):
    family, port = ProcessFamily(), free_port()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 32)
    environment = {**family.environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=1", "--block"]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        await_that(lambda: "block forever" in (tmp_path / "ray.log").read_text(), "the cluster runs")
        flags = ("--simulate", "1", "--ray-address", f"127.0.0.1:{port}")
        with deployed(*flags, directory=tmp_path, env={"HOME": str(tmp_path)}) as deployment:
            ask(deployment, "Hello", max_tokens=2)
    finally:
        head.terminate()
        head.wait(WAIT_S)
        family.kill()


def test_a_ray_that_has_ended_is_told_from_one_that_runs():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert not listens(address)
        listening.listen()
        assert listens(address)
    assert listens("auto")  # which says nothing of it
