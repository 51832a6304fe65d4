"""A real server is measured, and what was found is a profile."""

import subprocess
import sys
from pathlib import Path

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_file import read_profile
from tests.vllm.conftest import EVERYDAY_POOL_BLOCKS, VllmServer

pytestmark = pytest.mark.vllm

BUSY = "this machine or the server is busy with something else"  # what it says where nothing can be measured now
TRIES = 5


def test_a_real_servers_quick_measurement_loads_as_a_profile(everyday_server: VllmServer, tmp_path: Path) -> None:
    server = everyday_server
    out = tmp_path / "tiny.yaml"
    command = [sys.executable, "-m", "dualmap", "calibrate", "--url", server.url, "--quick", "--out", str(out)]
    for _ in range(TRIES):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        if BUSY not in ended.stderr:
            break
    assert ended.returncode == 0, ended.stderr
    profile = read_profile(out, EngineProfile())
    assert (profile.block_size, profile.kv_tokens, profile.max_model_len) == (32, 32 * EVERYDAY_POOL_BLOCKS, 8192)
    assert 0 < profile.prefill_s_per_token < 0.01
    assert 0 < profile.step_base_s + profile.step_overhead_s < 1
    assert "model tiny, vLLM 0." in out.read_text()
