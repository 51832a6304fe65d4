"""`dualmap simulate` and `dualmap up` with a policy of an installed package."""

import json
import os
import subprocess
import sys

import pytest

from tests import own_policy
from tests.conftest import WAIT_S
from tests.deployment import ask, deployed


@pytest.fixture
def environment(tmp_path):
    site = own_policy.install(tmp_path / "site")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}


def simulate(environment, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dualmap", "simulate", "synth:hot", "--limit", "120", "--warmup", "20"]
    command += ["--qps", "2", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * WAIT_S)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_simulate_runs_it_in_this_process_and_in_others(environment, jobs: str):
    done = simulate(environment, "--policy", f"{own_policy.NAME},round_robin", "--jobs", jobs)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"policy", own_policy.NAME, "round_robin"}


def test_an_unknown_one_is_told_the_nearest(environment):
    done = simulate(environment, "--policy", "sonest")
    assert done.returncode == 2
    assert "--policy: no policy 'sonest' (did you mean soonest?); there are dualmap, round_robin" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_journal_of_it_replays(environment, tmp_path):
    journal = tmp_path / "journal.jsonl"
    assert simulate(environment, "--policy", own_policy.NAME, "--journal", str(journal)).returncode == 0
    command = [sys.executable, "-m", "dualmap", "replay-journal", str(journal)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(journal.read_text().splitlines()[0])["config"]["policy"] == own_policy.NAME
    assert "the same commands" in done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_gateway_decides_by_it(environment, tmp_path):
    arguments = ("--simulate", "2", "--policy", own_policy.NAME)
    with deployed(*arguments, directory=tmp_path, env=environment) as deployment:
        ask(deployment, "Which one is sooner?", max_tokens=2)
        assert deployment.status()["policy"] == own_policy.NAME
