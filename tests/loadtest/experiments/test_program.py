"""What all experiments have in common as programs."""

import signal
import subprocess
import sys

import pytest

from dualmap.loadtest.experiments.program import INTERRUPTED
from tests.conftest import WAIT_S

PROGRAM = """
import signal, sys, time
from dualmap.loadtest.experiments.program import run_as_program

def run(args):
    try:
        print("runs", flush=True)
        time.sleep(600)
    finally:
        print("what it started is ended", flush=True)

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it starts in the background
sys.exit(run_as_program(lambda parser: None, run))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_experiment_that_is_told_to_end_ends_what_it_started(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
            process.send_signal(number)
            said, complaint = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert (process.returncode, said, complaint) == (INTERRUPTED, "what it started is ended\n", "")
