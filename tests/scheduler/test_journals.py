"""Journals are tests: each one in journals/ is replayed, and so are random runs of every policy.

To record those in journals/ again after a change that is meant to alter decisions, see journals/README.md.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.router.cli.replay_journal import describe
from dualmap.router.journal.format import EVENT_TYPES, decode_line
from dualmap.router.journal.replay import JournalReader, Replay, replay
from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.config import POLICY_NAMES
from tests.scheduler.random_run import record

FOLDER = Path(__file__).parent / "journals"
JOURNALS = sorted((*FOLDER.glob("*.jsonl"), *FOLDER.glob("*.jsonl.gz")))
BASE = {"ttft_slo_s": 2.0, "max_waiting": 4, "max_in_flight": 30, "queue_timeout_s": 20.0}
SWITCHES = (
    {},
    {"gateway_queue": False},
    {"slo_aware": False},
    {"rebalancing": False},
    {"queue_timeout_s": float("inf")},
    {"cold_start_timeout_s": 3.0},
)


def assert_same_commands(path: Path) -> Replay:
    """Replay the journal; at a difference the test fails with what `dualmap replay-journal` would say."""
    done = replay(JournalReader(path))
    if done.first is not None:
        pytest.fail(describe(path, done.first), pytrace=False)
    assert done.events
    return done


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.name)
def test_a_recorded_run_gets_the_same_commands(path: Path):
    assert_same_commands(path)


@settings(max_examples=25)
@given(policy=st.sampled_from(POLICY_NAMES), changes=st.sampled_from(SWITCHES), seed=st.integers(0, 10**6))
def test_any_run_gets_the_same_commands_again(policy, changes, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        config = SchedulerConfig(**{"policy": policy, **BASE, **changes})
        record(path, config, seed, events=120)
        reader = JournalReader(path)
        assert reader.header.config == config
        done = assert_same_commands(path)
        assert done.requests > 10
        assert done.commands > 5


@pytest.mark.parametrize(
    "policy", [pytest.param(name, marks=() if name == "dualmap" else pytest.mark.slow) for name in POLICY_NAMES]
)
def test_a_long_run_gets_the_same_commands_in_a_process_with_another_hash_seed(policy, tmp_path):
    path = tmp_path / "run.jsonl.gz"
    record(path, SchedulerConfig(policy=policy, **BASE), seed=5, events=2000)
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-m", "dualmap", "replay-journal", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_random_runs_have_every_event_the_core_is_told(tmp_path):
    path = tmp_path / "run.jsonl"
    record(path, SchedulerConfig(), seed=5, events=1000)
    seen = {type(decode_line(line).event) for line in path.read_bytes().splitlines()[1:-1]}
    assert seen == set(EVENT_TYPES)
