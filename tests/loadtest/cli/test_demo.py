"""`dualmap demo` as a user runs it, shortened: real Ray, simulated instances, two replays and the report."""

import subprocess
import sys

import pytest

from dualmap.loadtest.replay.run_file import Outcome, read_run
from tests.conftest import WAIT_S, ProcessFamily, await_that


@pytest.mark.ray
@pytest.mark.release  # test_wheel.py runs a demo too
def test_the_demo_ends_with_a_table_and_a_report_and_leaves_no_process(tmp_path):
    family = ProcessFamily()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dualmap", "demo", "--seconds", "4", "--out", str(tmp_path)],
            env=family.environment,
            capture_output=True,
            text=True,
            timeout=3 * WAIT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        await_that(lambda: not family.living(), "every process has ended")
    finally:
        family.kill()
    report = tmp_path / "report.html"
    assert str(report) in done.stdout
    assert report.read_text().count("round_robin") > 1
    sent = []
    for policy in ("round_robin", "dualmap"):
        header, rows = read_run(tmp_path / f"{policy}.jsonl")
        assert header.label == policy
        assert {row.outcome for row in rows} == {Outcome.OK}
        sent.append([(row.index, row.trace_input_tokens) for row in sorted(rows, key=lambda row: row.index)])
    assert sent[0] == sent[1], "both policies get the same work"


def test_a_trace_that_cannot_be_read_is_one_line_and_starts_nothing(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("{}\n")
    done = subprocess.run(
        [sys.executable, "-m", "dualmap", "demo", "--trace", str(trace), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 2
    assert f"{trace}, line 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1
