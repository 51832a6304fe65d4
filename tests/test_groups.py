"""Tests with a Ray cluster run one after the other, however many processes share the tests."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import WAIT_S

ROOT = Path(__file__).parent.parent
MARKED = """
import os
from pathlib import Path
import pytest

@pytest.mark.ray
@pytest.mark.parametrize("number", range(6))
def test_marked(number):
    Path(__file__).with_name(f"ran-in-{os.getpid()}").touch()
"""


def test_tests_with_a_cluster_run_in_one_process(tmp_path):
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_marked.py").write_text(MARKED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = ray\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "3", "--dist", "loadgroup", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    assert len(list(tmp_path.glob("ran-in-*"))) == 1
