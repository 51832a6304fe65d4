"""Raw requests reach vLLM's HTTP server as the standards read them; `python -m dualmap.loadtest.parsing` has all of
them, and other proxies."""

import subprocess
import sys

import pytest

from tests.vllm.conftest import VLLM

pytestmark = pytest.mark.vllm


def test_the_gateway_reads_no_request_against_the_standards_or_otherwise_than_its_server(tmp_path):
    command = [sys.executable, "-m", "dualmap.loadtest.parsing", "--readers", "gateway", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--python", str(VLLM.with_name("python"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
