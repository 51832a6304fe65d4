"""A server that others start changes its role while it serves: what it has ends first, and nothing is lost or cut."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import Deployment, deployed, under_load
from tests.instances.conftest import SimProcess

CLIENTS = 6
TOKENS = 60  # of an answer
PROMPT = "A long question that nobody has asked before. " * 120


@pytest.fixture
def sims():
    """Each can do both."""
    processes = [SimProcess("--prefill-tokens-per-s", "20000") for _ in range(4)]
    yield processes
    for process in processes:
        process.clean_up()


def dualmap(deployment: Deployment, *arguments: str) -> subprocess.CompletedProcess:
    admin = ("--admin", f"http://127.0.0.1:{deployment.admin_port}")
    command = [sys.executable, "-m", "dualmap", *arguments, *admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)


def test_a_server_changes_its_role_and_back_under_load_and_no_answer_is_lost_or_cut(sims, tmp_path):
    p1, p2, d1, d2 = (f"127.0.0.1:{sim.port}" for sim in sims)
    flags = [f"--{role}=http://{i}" for role, i in (("prefill", p1), ("prefill", p2), ("decode", d1), ("decode", d2))]
    stop, begun, ends = threading.Event(), threading.Semaphore(0), []

    def ask(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            messages = [{"role": "user", "content": f"{number}, {turn}: {PROMPT}"}]
            options = {"max_tokens": TOKENS, "stream": True, "stream_options": {"include_usage": True}}
            try:
                chunks = client.chat.completions.create(
                    model="sim", messages=messages, **options, extra_body={"ignore_eos": True}
                )
                ends.append(list(chunks)[-1].usage.completion_tokens)
            except openai.APIError as error:
                ends.append(error.message)
            begun.release()

    always = "scheduler: {min_prefill_leg_tokens: 512}\n"
    with deployed(*flags, directory=tmp_path, config=always) as deployment:
        await_that(lambda: deployment.ready_count() == len(sims), "all servers are ready")
        with deployment.client() as client, ThreadPoolExecutor(CLIENTS) as clients:
            asked = [clients.submit(ask, number) for number in range(CLIENTS)]
            try:
                for role in ("decode", "prefill"):
                    for _ in range(CLIENTS):
                        assert begun.acquire(timeout=WAIT_S)
                    done = dualmap(deployment, "role", p2, role)
                    assert (done.returncode, done.stdout.endswith("done\n")) == (0, True), done
                    assert deployment.members()[p2]["role"] == role
            finally:
                stop.set()
            for one in asked:
                one.result(timeout=WAIT_S)
        assert set(ends) == {TOKENS}
        assert 'dualmap_prefill_handoffs_total{told="where"} 0.0' not in deployment.metrics()
        drained = dualmap(deployment, "drain", d1)
        assert drained.returncode == 0, drained
        refused = dualmap(deployment, "role", d2, "prefill")
        assert refused.stderr == f"error: {d2} is the last instance that answers: without it nobody decodes\n"
        sims[0].process.kill()
        lost = dualmap(deployment, "role", p1, "decode")
        assert (lost.returncode, lost.stderr.startswith(f"error: {p1} is lost (")) == (1, True), lost


def test_a_file_that_gives_every_server_another_role_or_revision_leaves_none_unanswered(sims, tmp_path):
    def named(*roles: str, revision: str = "") -> dict[str, tuple[str, str]]:
        return {f"127.0.0.1:{sim.port}": (role, revision) for sim, role in zip(sims, roles, strict=True)}

    def file(instances: dict[str, tuple[str, str]]) -> str:
        entries = [{"url": f"http://{i}", "role": role, "revision": rev} for i, (role, rev) in instances.items()]
        return json.dumps({"instances": entries})

    first = named("prefill", "prefill", "decode", "decode")
    with deployed(directory=tmp_path, config=file(first)) as deployment:
        await_that(lambda: deployment.ready_count() == len(sims), "all servers are ready")

        def change() -> None:
            for after in (named("decode", "decode", "prefill", "prefill"), named(*["both"] * 4, revision="v2")):
                (tmp_path / "dualmap.yaml").write_text(file(after))

                def there(after: dict[str, tuple[str, str]] = after) -> bool:
                    members = deployment.members().items()
                    ready = {i: (m["role"], m["revision"]) for i, m in members if m["state"] == "ready"}
                    return ready == after

                await_that(there, f"{after} are there")

        assert under_load(deployment, change) == []
