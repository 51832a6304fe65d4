"""Servers of two data-parallel ranks each behind a whole deployment: each rank keeps prefixes of its own."""

import subprocess
import sys

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, deployed, under_load
from tests.instances.conftest import SimProcess

SUBJECTS = 8
LONG = "A long text that many questions are about. " * 60


@pytest.fixture
def sims():
    processes = [SimProcess("--data-parallel-size", "2", "--prefill-tokens-per-s", "50000") for _ in range(2)]
    yield processes
    for process in processes:
        process.clean_up()


@pytest.fixture
def deployment(sims, tmp_path):
    flags = [flag for sim in sims for flag in ("--instance", f"http://127.0.0.1:{sim.port}@0..1")]
    with deployed(*flags, directory=tmp_path) as deployment:
        await_that(lambda: deployment.ready_count() == 4, "all ranks are ready")
        yield deployment


def ask_about(deployment: Deployment, subject: int, question: int) -> tuple[str, int]:
    """Which instance answered, and how many tokens were cached there."""
    messages = [{"role": "user", "content": f"{subject}: {LONG} {question}?"}]
    with deployment.client() as client:
        answer = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=2)
        return answer.headers["x-dualmap-instance"], answer.parse().usage.prompt_tokens_details.cached_tokens


def drain(deployment: Deployment, instance_id: str) -> str:
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    command = [sys.executable, "-m", "dualmap", "drain", instance_id, "--admin", admin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.stdout + done.stderr


def test_a_prefix_stays_with_the_rank_that_has_it_and_a_killed_server_loses_all_ranks(deployment, sims):
    ids = {f"127.0.0.1:{sim.port}@{rank}" for sim in sims for rank in range(2)}
    assert deployment.members().keys() == ids
    first = {subject: ask_about(deployment, subject, 0) for subject in range(SUBJECTS)}
    assert {cached for _, cached in first.values()} == {0}
    for subject, (instance_id, _) in first.items():
        again, cached = ask_about(deployment, subject, 1)
        assert again == instance_id
        assert cached > 600
    for sim in sims:
        for rank in "01":
            here = sum(instance_id == f"127.0.0.1:{sim.port}@{rank}" for instance_id, _ in first.values())
            assert sim.metric("vllm:time_to_first_token_seconds_count", engine=rank) == 2 * here

    def strike() -> None:
        sims[0].process.kill()
        await_that(lambda: deployment.ready_count() == 2, "both ranks of the killed server are lost")

    assert under_load(deployment, strike) == []
    states = {i: member["state"] for i, member in deployment.members().items()}
    lost = {f"127.0.0.1:{sims[0].port}@{rank}" for rank in range(2)}
    assert {i for i, state in states.items() if state == "lost"} == lost


def test_a_server_is_drained_with_all_its_ranks_and_a_rank_alone(deployment, sims):
    one, other = (f"127.0.0.1:{sim.port}" for sim in sims)
    assert "done" in drain(deployment, f"{one}@1")
    assert "done" in drain(deployment, one)
    states = {i: member["state"] for i, member in deployment.members().items()}
    assert states == {f"{one}@0": "draining", f"{one}@1": "draining", f"{other}@0": "ready", f"{other}@1": "ready"}
    assert f"{other} is the last instance that is ready" in drain(deployment, other)
