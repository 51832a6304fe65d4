"""A whole deployment as users start it: `dualmap up` with real Ray and simulated instances, parts of it killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from dualmap.router.journal.replay import JournalReader, replay
from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, deployed

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """Two simulated instances behind one gateway, shared by the tests that leave it working."""
    with deployed("--simulate", "2", directory=tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


def chat(deployment: Deployment, text: str, **options):
    messages = [{"role": "user", "content": text}]
    return deployment.client().chat.completions.create(model="sim", messages=messages, **options)


def test_a_growing_chat_stays_on_its_two_instances_and_finds_its_cache(deployment):
    client = deployment.client()
    messages = [{"role": "system", "content": "Answer in one word. " * 200}]
    used, cached = [], []
    for turn in range(6):
        messages.append({"role": "user", "content": f"Question {turn}. " * 40})
        answer = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=32)
        used.append(answer.headers["x-dualmap-instance"])
        completion = answer.parse()
        cached.append(completion.usage.prompt_tokens_details.cached_tokens)
        messages.append({"role": "assistant", "content": completion.choices[0].message.content})
    assert len(set(used)) <= 2
    assert cached[-1] > cached[1] > 0


def test_a_stream_gives_the_answer_that_the_plain_request_gives(deployment):
    plain = chat(deployment, "Tell me a story.", max_tokens=24)
    chunks = list(chat(deployment, "Tell me a story.", max_tokens=24, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_status_and_metrics_show_members_and_requests(deployment):
    chat(deployment, "Count me.", max_tokens=4)
    assert set(deployment.members()) == {"sim-0", "sim-1"}
    assert re.search(r'dualmap_requests_total{.*outcome="ok".*} [1-9]', deployment.metrics())
    done = subprocess.run(
        [sys.executable, "-m", "dualmap", "status", "--admin", f"http://127.0.0.1:{deployment.admin_port}"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0
    assert "sim-0" in done.stdout
    assert "ready" in done.stdout


def test_streams_of_a_killed_instance_go_on_elsewhere_and_it_comes_back(deployment):
    await_that(lambda: deployment.ready_count() == 2, "both instances ready")
    victim = deployment.members()["sim-0"]
    begun = threading.Semaphore(0)
    outcomes: list[tuple[str, str]] = []

    def stream(number: int) -> None:
        """Records instance and outcome; the stream is long enough to be running when the instance dies."""
        options = {"max_tokens": 600, "stream": True, "extra_body": {"ignore_eos": True}}
        messages = [{"role": "user", "content": f"{number} is my number. " * 30}]
        raw = client.chat.completions.with_raw_response
        instance = ""
        try:
            answer = raw.create(model="sim", messages=messages, **options)
            instance = answer.headers["x-dualmap-instance"]
            chunks = iter(answer.parse())
            next(chunks)
            begun.release()
            finish_reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
            outcomes.append((instance, finish_reasons[-1]))
        except openai.APIError as error:
            outcomes.append((instance, f"error: {error.message}"))

    with deployment.client() as client, ThreadPoolExecutor(24) as clients:
        running = [clients.submit(stream, number) for number in range(12)]
        for _ in range(12):
            assert begun.acquire(timeout=WAIT_S)
        os.kill(victim["pid"], signal.SIGKILL)
        running += [clients.submit(stream, number) for number in range(12, 24)]
        for done in running:
            done.result(timeout=WAIT_S)

    assert [outcome for _, outcome in outcomes] == ["length"] * 24
    assert any(instance == "sim-0" for instance, _ in outcomes), "some had begun where the kill was"
    back = await_that(
        lambda: (
            (member := deployment.members()["sim-0"])["state"] == "ready"
            and member["incarnation"] > victim["incarnation"]
            and member
        ),
        "the instance comes back as a new incarnation",
    )
    assert back["pid"] != victim["pid"]


def test_a_killed_gateway_comes_back_on_its_port_and_serves(deployment):
    before = deployment.status()["pid"]
    os.kill(before, signal.SIGKILL)

    def served() -> bool:
        try:
            return bool(chat(deployment, "Are you back?", max_tokens=4).choices)
        except openai.APIError:
            return False

    await_that(served, "the gateway serves again")
    assert deployment.status()["pid"] != before


@pytest.mark.parametrize("actor", ["Fleet", "InstanceActor"])
def test_requests_are_served_while_a_background_actor_is_killed(deployment, actor):
    await_that(lambda: deployment.ready_count() == 2, "both instances ready")
    os.kill(deployment.actor_pids(actor)[0], signal.SIGKILL)
    for number in range(20):
        assert chat(deployment, f"Still there, {number}?", max_tokens=4).choices
    await_that(lambda: deployment.ready_count() == 2, "both instances ready again")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopping_leaves_no_process_behind(tmp_path, number):
    logs = ("--log-format", "json", "--log-requests")
    with deployed("--simulate", "1", "--journal", "run.jsonl.gz", *logs, directory=tmp_path) as deployment:
        assert chat(deployment, "Hello.", max_tokens=4).choices
        assert deployment.stop(number) == 0, deployment.output
        await_that(lambda: not deployment.family.living(), "every process has ended")
        journal = JournalReader(tmp_path / "run.gateway-0.jsonl.gz")
        replayed = replay(journal)
        assert (replayed.requests, replayed.first, journal.note) == (1, None, "")
        lines = map(json.loads, (tmp_path / "runs" / "logs" / "latest" / "gateway-0.log").read_text().splitlines())
        (line,) = (line for line in lines if line["logger"] == "dualmap.requests")
        assert (line["process"], line["outcome"], line["instance"]) == ("gateway-0", "ok", "sim-0")


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_behind(tmp_path):
    with deployed("--simulate", "1", directory=tmp_path) as deployment:
        deployment.process.kill()
        # Ray's own two agents follow later, when they have given up on their head node.
        left = lambda: [c for c in deployment.family.living().values() if not re.match("ray::.*Agent$", c.strip())]  # noqa: E731
        await_that(lambda: not left(), "every process of ours has ended")


@pytest.mark.slow
def test_a_port_in_use_is_one_clear_line_and_nothing_is_left(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        deployment = Deployment("--simulate", "1", "--port", str(port), directory=tmp_path)
        try:
            assert deployment.process.wait(timeout=WAIT_S) == 1
            await_that(lambda: not deployment.family.living(), "every process has ended")
            deployment._reader.join(timeout=WAIT_S)
            output = "".join(deployment.output)
            assert f"error: cannot listen on 127.0.0.1:{port}" in output
            assert "Traceback" not in output
        finally:
            deployment.clean_up()
