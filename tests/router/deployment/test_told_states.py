"""The states of servers as people are told them by `dualmap up`: servers that refuse, load, answer
nonsense, want a key, are killed and come back."""

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, ask, deployed, free_port, held
from tests.router.ui_browser import open_page

KILLED = ("instance_lost", "instance_restarted", "instance_back")

SIM = (sys.executable, "-m", "dualmap.instances.simulated.cli")
ELASTIC = "simulate: {count: 1}\nscaling: {min_replicas: 1, max_replicas: 2}\nlogs: {format: json}\n"


@contextmanager
def answering(port: int, status: int, body: bytes = b"ok") -> Iterator[None]:
    """Something at the port that answers everything so."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def simulated(port: int, *flags: str) -> Iterator[subprocess.Popen]:
    server = subprocess.Popen([*SIM, "--port", str(port), *flags], stdout=subprocess.DEVNULL)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def shown(deployment: Deployment, instance_id: str) -> tuple[str, str]:
    member = deployment.members()[instance_id]
    assert member["for_s"] >= 0
    return member["state"], member["reason"]


def await_shown(deployment: Deployment, instance_id: str, state: str, reason: str) -> None:
    await_that(lambda: shown(deployment, instance_id) == (state, reason), f"{instance_id} is {state}: {reason}")


def await_said(deployment: Deployment, beginning: str) -> None:
    await_that(lambda: any(line.startswith(beginning) for line in deployment.output), f"it says {beginning!r}")


def logged(directory: Path, instance_id: str) -> list[dict]:
    """What happened to the instance, as Fleet has logged it."""
    lines = map(json.loads, (directory / "runs/logs/latest/fleet.log").read_text().splitlines())
    return [line for line in lines if line.get("event") and line.get("instance") == instance_id]


def status_text(deployment: Deployment, *flags: str) -> str:
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    command = [sys.executable, "-m", "dualmap", "status", *flags, "--admin", admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout


async def texts_on_page(deployment: Deployment) -> list[str]:
    async with open_page(f"http://127.0.0.1:{deployment.admin_port}/ui") as seen:
        await seen.page.wait_for_selector("#events tbody tr")
        return await seen.page.locator("#events tbody tr .said").all_text_contents()


def test_a_watched_server_is_told_through_all_its_states(tmp_path):
    port, nonsense, locked = free_port(), free_port(), free_port()
    here = [f"127.0.0.1:{number}" for number in (port, nonsense, locked)]
    flags = [f"--instance=http://{address}" for address in here]
    instance, no_vllm, wants_key = here
    with (
        answering(nonsense, 200),
        simulated(locked, "--api-key", "secret"),
        deployed(*flags, "--log-format", "json", directory=tmp_path) as deployment,
    ):
        await_shown(deployment, instance, "lost", "connection refused")
        software = f"BaseHTTP/0.6 Python/{platform.python_version()}"
        reason = f"answers, but is no vLLM server: /v1/models is no list of models: text, from {software}"
        await_shown(deployment, no_vllm, "starting", reason)
        await_shown(deployment, wants_key, "starting", "401: it wants a key (gateway.instance_key_file)")
        with answering(port, 503):
            await_shown(deployment, instance, "starting", "503: it loads its model")
        with simulated(port):
            await_shown(deployment, instance, "ready", "")
            assert ask(deployment, "Hello", max_tokens=2)
        await_said(deployment, f"{instance} is ready")
        await_shown(deployment, instance, "lost", "connection refused")
        await_said(deployment, f"{instance} is lost: connection refused")
        with simulated(port):
            await_shown(deployment, instance, "ready", "")
            await_said(deployment, f"{instance} is ready again")
            shown_now = " ".join(status_text(deployment, "--events").split())
            assert shown_now.count(reason) == 2, "as its state, and as an event"
            assert f"{no_vllm} is starting: {reason}" in shown_now
            assert (
                f'dualmap_instance_state{{instance="{no_vllm}",pool="",state="starting"}} 1.0' in deployment.metrics()
            )
        kinds = [line["event"] for line in logged(tmp_path, instance) if line["event"] != "instance_suspect"]
        joined = kinds.index("instance_joined")
        assert kinds[:2] == ["instance_lost", "instance_starting"]
        assert set(kinds[:joined]) == {"instance_lost", "instance_starting"}, "told again after half a minute"
        assert kinds[joined:] == ["instance_joined", "instance_lost", "instance_back"]
        reasons = [line.get("reason") for line in logged(tmp_path, instance)]
        assert "connection refused" in reasons
        assert "503: it loads its model" in reasons
        assert len(logged(tmp_path, no_vllm)) <= 2, "it is told, not flapped over"


@pytest.mark.ray
def test_a_killed_server_of_ours_is_starting_until_it_is_back_and_none_is_started_beside_it(tmp_path):
    with deployed(directory=tmp_path, config=ELASTIC) as deployment:
        await_that(lambda: deployment.ready_count() == 1, "it is ready")
        before = deployment.members()["sim-0"]
        os.kill(before["pid"], signal.SIGKILL)

        def back() -> bool:
            (member,) = deployment.status()["members"]
            return member["state"] == "ready" and member["incarnation"] > before["incarnation"]

        await_that(back, "the same instance is ready again")
        assert ask(deployment, "Hello", max_tokens=2)
        await_said(deployment, "sim-0 is ready again")
        assert not any("sim-1" in line for line in deployment.output)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.browser
def test_a_kill_is_told_in_the_log_on_the_terminal_in_status_and_on_the_page(tmp_path):
    with (
        deployed("--simulate", "2", "--log-format", "json", directory=tmp_path) as deployment,
        held(deployment, 6),
    ):
        killed = max(deployment.status()["members"], key=lambda member: member["running"])
        name = killed["instance_id"]
        os.kill(killed["pid"], signal.SIGKILL)
        await_said(deployment, f"{name} is ready again after ")
        lost, restarted, back = (line for line in logged(tmp_path, name) if line["event"] in KILLED)
        assert [line["event"] for line in (lost, restarted, back)] == list(KILLED)
        assert lost["level"] == "warning"
        assert lost["reason"] == "its server ended with exit code -9: Killed; started again"
        assert lost["continued"] + lost["run_elsewhere"] == killed["running"]
        assert not lost["failed"]
        assert lost["since"] <= restarted["at"] <= back["at"]
        assert restarted["exit_code"] == -9
        assert restarted["log_line"], "the last line of its log"
        for sentence in (line["message"] for line in (lost, restarted, back)):
            assert f"{sentence}\n" in deployment.output
            assert sentence in [event["said"] for event in deployment.status()["events"]]
            assert sentence in " ".join(status_text(deployment, "--events").split())
            assert sentence in asyncio.run(texts_on_page(deployment))
        metrics = deployment.metrics()
        for kind in KILLED:
            assert f'dualmap_fleet_events_total{{kind="{kind}"}} 1.0' in metrics
