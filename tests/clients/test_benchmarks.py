"""Benchmarks that others wrote, each in front of a gateway without Ray of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dualmap.loadtest.traces.describe import reusable_share
from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from tests.clients.client_process import CLIENTS, client_environment, need
from tests.clients.fleet_alone import Alone, alone
from tests.conftest import WAIT_S

pytestmark = pytest.mark.clients

TRACE = SynthConfig(
    requests=30,
    qps=8.0,
    system_prompts=4,
    system_tokens=Lognormal(3000, 0.3, 2048, 6144),
    first_message=Lognormal(2000, 0.5, 600, 6000),
    answer=Lognormal(8, 0.3, 2, 16),
    max_input_tokens=20_000,
)


def package_data() -> Path:
    """Where LiteLLM has tokenizers, tiktoken's too."""
    need(CLIENTS)
    (folder,) = CLIENTS.glob("lib/python*/site-packages/litellm/litellm_core_utils/tokenizers")
    return folder


def run(name: str, *flags: str, directory: Path) -> None:
    """A command of the clients' environment, to its end."""
    command = need(CLIENTS / "bin" / name)
    environment = client_environment(TIKTOKEN_CACHE_DIR=str(package_data()), MPLCONFIGDIR=str(directory))
    done = subprocess.run(
        [command, *flags], env=environment, cwd=directory, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def aiperf(fleet: Alone, directory: Path, *flags: str) -> dict:
    """What AIPerf measured."""
    run(
        "aiperf",
        *("profile", "--model", "sim", "--url", fleet.url, "--streaming", "--tokenizer", "builtin", "--ui", "none"),
        *("--no-server-metrics", "--random-seed", "7", "--artifact-dir", str(directory / "out"), *flags),
        directory=directory,
    )
    return json.loads((directory / "out" / "profile_export_aiperf.json").read_text())


def check_all_answered(fleet: Alone, measured: dict, count: int) -> None:
    assert measured["request_count"]["avg"] == count
    assert not measured.get("error_request_count")
    assert measured["time_to_first_token"]["avg"] > 0
    assert fleet.outcomes() == {"ok": count}


def test_aiperf_replays_a_mooncake_trace_at_its_own_times(tmp_path):
    trace, requests = tmp_path / "trace.jsonl", synthesise(TRACE)
    write_trace(trace, requests)
    with alone(3) as fleet:
        flags = ("--input-file", str(trace), "--custom-dataset-type", "mooncake_trace", "--fixed-schedule")
        measured = aiperf(fleet, tmp_path, "--endpoint-type", "chat", "--fixed-schedule-auto-offset", *flags)
        check_all_answered(fleet, measured, 30)
        (cached,) = fleet.counted("dualmap_cached_prompt_tokens_total").values()
        (prompts,) = fleet.counted("dualmap_prompt_tokens_total").values()
    assert cached > 0.5 * reusable_share(requests) * prompts  # the first of each prefix meet before it is cached


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_aiperf_brings_agents_with_many_turns(tmp_path, api):
    with alone(3) as fleet:
        sessions = ("--conversation-num", "5", "--conversation-turn-mean", "4", "--conversation-turn-stddev", "0")
        size = ("--synthetic-input-tokens-mean", "600", "--output-tokens-mean", "16", "--concurrency", "5")
        measured = aiperf(fleet, tmp_path, "--endpoint-type", api, "--request-count", "20", *sessions, *size)
        check_all_answered(fleet, measured, 20)
        (cached,) = fleet.counted("dualmap_cached_prompt_tokens_total").values()
        (prompts,) = fleet.counted("dualmap_prompt_tokens_total").values()
    assert cached > 0.5 * prompts


def test_genai_bench_shares_prefixes(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(package_data() / "anthropic_tokenizer.json", tokenizer / "tokenizer.json")
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with alone(3) as fleet:
        run(
            "genai-bench",
            *("benchmark", "--api-backend", "vllm", "--api-base", fleet.url, "--api-key", "none"),
            *("--api-model-name", "sim", "--model-tokenizer", str(tokenizer), "--task", "text-to-text"),
            *("--traffic-scenario", "D(400,8)", "--prefix-ratio", "0.5", "--num-concurrency", "4"),
            *("--max-time-per-run", "1", "--max-requests-per-run", "20", "--log-dir", str(tmp_path)),
            *("--experiment-base-dir", str(tmp_path), "--experiment-folder-name", "out"),
            directory=tmp_path,
        )
        outcomes = fleet.outcomes()
    (result,) = (tmp_path / "out").glob("D400_8_*.json")
    measured = json.loads(result.read_text())["aggregated_metrics"]
    assert measured["num_error_requests"] == 0
    assert outcomes.pop("ok") >= measured["num_completed_requests"] >= 20
    assert outcomes.keys() <= {"cancelled"}
