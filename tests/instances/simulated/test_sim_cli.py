"""The command line of a simulated server."""

import subprocess
import sys
from pathlib import Path

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_file import read_profile
from tests.conftest import WAIT_S


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dualmap.instances.simulated.cli", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_taken_port_is_one_line_and_status_1(sim) -> None:
    ended = run("--port", str(sim.port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: cannot listen on 127.0.0.1:{sim.port}: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--port"),
        (("--port", "65536"), "must be a port number from 0 to 65535, not '65536'"),
        (("--port", "0", "--kv-tokens", "0"), "--kv-tokens: must be a whole number of at least 1, not '0'"),
        (("--port", "0", "--prefill-tokens-per-s", "fast"), "must be a number above 0, not 'fast'"),
        (("--port", "0", "--prefill-tokens-per-s", "nan"), "must be a number above 0, not 'nan'"),
        (("--port", "0", "--unknown"), "unrecognized arguments: --unknown"),
    ],
)
def test_bad_flags_are_status_2(flags: tuple[str, ...], message: str) -> None:
    ended = run(*flags)
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kv-tokens", "500", "--max-model-len", "501"), "max_model_len must be at most what kv_tokens holds (496)"),
        (("--kv-tokens", "15"), "kv_tokens must be at least block_size (16), not 15"),
        (("--max-num-batched-tokens", "8"), "max_num_seqs must be at most max_num_batched_tokens (8)"),
    ],
)
def test_flags_that_do_not_fit_together_are_one_line_and_status_2(flags: tuple[str, ...], message: str) -> None:
    ended = run("--port", "0", *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1


def test_a_small_cache_limits_the_model_length_by_itself(start_sim) -> None:
    sim = start_sim("--kv-tokens", "1000")
    assert sim.post("/tokenize", {"prompt": ""})[1]["max_model_len"] == 992


def test_flags_override_the_profile(start_sim, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("kv_tokens: 3200\nblock_size: 32\nmax_model_len: 2000\n")
    assert start_sim("--profile", str(profile)).post("/tokenize", {"prompt": ""})[1]["max_model_len"] == 2000
    smaller = start_sim("--profile", str(profile), "--kv-tokens", "1000")
    assert smaller.post("/tokenize", {"prompt": ""})[1]["max_model_len"] == 992
    assert smaller.metric("vllm:cache_config_info", block_size="32", num_gpu_blocks="31") == 1


def test_what_the_cache_has_evicted_is_read_back_from_the_tier_behind_it(start_sim) -> None:
    sim = start_sim("--kv-tokens", "1000", "--cpu-cache-tokens", "100000", "--cpu-load-tokens-per-s", "20000")
    first, second = list(range(900)), list(range(1000, 1900))
    cached = [
        sim.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] for prompt in (first, second, first)
    ]
    assert cached == [0, 0, 896]


def test_a_profile_that_cannot_be_used_is_one_line_and_status_2(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("kv_token: 1")
    ended = run("--port", "0", "--profile", str(profile))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {profile}: unknown field 'kv_token'")
    assert ended.stderr.count("\n") == 1


def test_the_profile_that_comes_with_the_project_loads() -> None:
    path = Path(__file__).parents[3] / "deploy" / "profiles" / "cpu-small.yaml"
    assert read_profile(path, EngineProfile()).block_size == 32
