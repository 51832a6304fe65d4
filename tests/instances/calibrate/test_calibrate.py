"""`dualmap calibrate`: a simulated server's profile is found again, and what cannot be measured is refused clearly."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dualmap.instances.calibrate.measure import CalibratePlan, Timings, make_plan, measure
from dualmap.instances.calibrate.profile import calibrated, file_text, residuals
from dualmap.instances.calibrate.server import CalibrateTarget
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.instances.simulated.profile_file import profile_text, read_profile
from dualmap.instances.simulated.server import SimServer
from tests.conftest import WAIT_S
from tests.loadtest.virtual_loop import VirtualLoop

HOST = "127.0.0.1"
CPU = EngineProfile(
    block_size=32,
    kv_tokens=64_000,
    max_num_batched_tokens=2048,
    max_num_seqs=16,
    max_model_len=16_384,
    prefill_s_per_token=0.0002,
    attention_s_per_token_pair=4e-8,
    step_base_s=0.0,
    step_overhead_s=0.006,
    decode_s_per_seq=0.0003,
    decode_s_per_context_token=6e-7,
    api_s=0.01,
)
GPU = EngineProfile(
    kv_tokens=200_000, max_model_len=32_768, max_num_seqs=64, attention_s_per_token_pair=4e-9, api_s=0.004
)
SLOW = replace(CPU, kv_tokens=8192, max_model_len=1024, max_num_seqs=4, prefill_s_per_token=0.002, step_overhead_s=0.02)
METRICS = b'vllm:num_requests_running{engine="0"} %d\nvllm:num_requests_waiting{engine="0"} 0\n'
POOL = b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
DOUBLING = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MODEL = b'{"data":[{"id":"m","max_model_len":1000}]}'


def target_of(profile: EngineProfile, port: int = 0) -> CalibrateTarget:
    sizes = (profile.max_model_len, profile.block_size, profile.kv_tokens)
    return CalibrateTarget(f"http://{HOST}:{port}", HOST, port, "sim", "simulated", *sizes)


def measured(profile: EngineProfile, *, quick: bool = False, max_prompt: int | None = None) -> Timings:
    """In virtual time: exact, whatever else this machine does."""

    async def run() -> Timings:
        server = SimServer(profile, "sim", None)
        try:
            target = target_of(profile, await server.start(HOST, 0))
            return await measure(target, make_plan(target, max_prompt, 256, quick=quick), lambda _: None)
        finally:
            await server.stop()

    loop = VirtualLoop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


@pytest.mark.parametrize("profile", [pytest.param(CPU, id="cpu"), pytest.param(GPU, id="gpu", marks=pytest.mark.slow)])
def test_a_simulated_server_gives_its_profile_back(profile: EngineProfile) -> None:
    found = calibrated(target_of(profile), measured(profile, max_prompt=16_384), None, None).profile
    for name in ("block_size", "kv_tokens", "max_model_len", "max_num_seqs", "max_num_batched_tokens"):
        assert getattr(found, name) == getattr(profile, name), name
    for name in ("prefill_s_per_token", "attention_s_per_token_pair", "step_base_s", "step_overhead_s", "api_s"):
        assert getattr(found, name) == pytest.approx(getattr(profile, name), rel=0.05, abs=2e-4), name
    assert found.decode_s_per_seq == pytest.approx(profile.decode_s_per_seq, rel=0.1, abs=2e-5)
    assert found.decode_s_per_context_token == pytest.approx(profile.decode_s_per_context_token, rel=0.1)


@pytest.mark.parametrize("profile", [pytest.param(CPU, id="cpu"), pytest.param(GPU, id="gpu")])
def test_of_small_steps_the_profile_has_what_they_cost(profile: EngineProfile) -> None:
    """Where a step both hides work and costs something besides, these are not told apart, but the sum is right."""
    small = {"max_num_batched_tokens": 144, "max_num_seqs": 16, "step_overhead_s": profile.step_overhead_s + 0.005}
    truth = replace(profile, **small)
    found = calibrated(target_of(truth), measured(truth, max_prompt=2048), 144, 16).profile
    for prompt_tokens, seqs in ((144, 0), (140, 4), (0, 8)):
        took_s, takes_s = (one.step_s(prompt_tokens, seqs, seqs * 1000, 1000 * prompt_tokens) for one in (found, truth))
        assert took_s == pytest.approx(takes_s, rel=0.05)
    if not truth.step_base_s:
        assert found.step_overhead_s == pytest.approx(truth.step_overhead_s, rel=0.05)


def test_quick_is_less_and_says_what_it_assumes() -> None:
    timings = measured(CPU, quick=True)
    assert {tokens for tokens, _ in timings.prompts} == {32, 128, 512, 2048}
    result = calibrated(target_of(CPU), timings, None, None)
    assert result.profile.prefill_s_per_token == pytest.approx(CPU.prefill_s_per_token, rel=0.1)
    assert result.told == [
        "max_num_batched_tokens 2048: assumed, since the steps of long prompts did not tell",
        "max_num_seqs 256: assumed, vLLM's default",
    ]


def test_what_the_user_gives_is_not_measured() -> None:
    result = calibrated(target_of(CPU), measured(CPU, quick=True), 4096, 32)
    assert (result.profile.max_num_batched_tokens, result.profile.max_num_seqs) == (4096, 32)
    assert result.told == ["max_num_batched_tokens 4096: given", "max_num_seqs 32: given"]


def test_the_file_has_source_residuals_and_a_capacity_to_paste(tmp_path: Path) -> None:
    result = calibrated(target_of(CPU), measured(CPU, quick=True), 2048, 16)
    path = tmp_path / "m.yaml"
    path.write_text(file_text(result, truthful_capacity(result.profile), ["Measured today"]))
    lines = path.read_text().splitlines()
    assert lines[0] == "# Measured today"
    assert "# max_num_seqs 16: given" in lines
    assert f"# {residuals(result)[-1]}" in lines
    (capacity,) = (line for line in lines if line.startswith("# capacity: {prefill_tokens_per_s: "))
    assert "kv_tokens: 64000, max_running: 16, attention_tokens: " in capacity
    assert read_profile(path, EngineProfile()).prefill_s_per_token == pytest.approx(
        result.profile.prefill_s_per_token, rel=1e-3
    )


@pytest.mark.parametrize(
    ("kv_tokens", "max_prompt", "quick", "expected"),
    [
        (64_000, None, False, CalibratePlan((*DOUBLING, 16_383), (1, 2, 4, 8), (64, 4096), 3)),
        (4096, None, False, CalibratePlan((*DOUBLING[:7], 4095), (1, 2, 4, 8), (64, 2047), 3)),
        (64_000, 300, False, CalibratePlan(DOUBLING[:4], (1, 2, 4, 8), (64,), 3)),
        (64_000, None, True, CalibratePlan((32, 128, 512, 2048), (1, 4), (64, 1024), 2)),
    ],
)
def test_lengths_double_up_to_what_fits(
    kv_tokens: int, max_prompt: int | None, quick: bool, expected: CalibratePlan
) -> None:
    target = CalibrateTarget("", HOST, 1, "m", "", 16_384, 32, kv_tokens)
    assert make_plan(target, max_prompt, 8, quick=quick) == expected


@pytest.mark.parametrize(
    ("pieces", "tokens", "budget"),
    [([4, 4, 4], 7680, 2048), ([4, 9, 4], 7680, 2048), ([2], 15_360, 8192), ([1, 1], 7680, None), ([3], 7680, None)],
)
def test_the_step_budget_is_told_by_the_pieces_of_a_prompt(pieces: list[int], tokens: int, budget: int | None) -> None:
    assert Timings(cuts=pieces, cut_tokens=tokens).budget() == budget


def test_one_round_in_which_all_ran_leaves_the_limit_open() -> None:
    assert Timings(rounds=3, running=[15, 16, 16]).most_running == 16
    assert Timings(rounds=3, running=[3]).most_running is None
    assert Timings(rounds=3).most_running is None


def calibrate(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dualmap", "calibrate", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.release
def test_a_simulated_process_is_measured_and_run_again_with_what_was_found(start_sim, tmp_path: Path) -> None:
    given, found = tmp_path / "given.yaml", tmp_path / "found.yaml"
    given.write_text(profile_text(SLOW, []))
    sim = start_sim("--profile", str(given))
    ended = calibrate("--url", sim.url, "--quick", "--max-prompt", "600", "--out", str(found), "--note", "a test")
    assert ended.returncode == 0, ended.stderr
    assert "round 2 of 2" in ended.stderr
    assert "capacity: {prefill_tokens_per_s: " in ended.stdout
    text = found.read_text()
    assert "model sim, vLLM simulated, a test" in text
    profile = read_profile(found, EngineProfile())
    assert (profile.kv_tokens, profile.max_model_len, profile.block_size) == (8192, 1024, 32)
    assert 0.5 < profile.prefill_s_per_token / SLOW.prefill_s_per_token < 2  # on a busy machine, too
    again = start_sim("--profile", str(found), "--max-model-len", "512")
    assert again.post("/tokenize", {"prompt": ""})[1]["max_model_len"] == 512


# What cannot be measured.


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Starts a server that answers each path as told, with 404 what it is not told; returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, bytes], stream: tuple[int, bytes] = (404, b"")) -> str:
        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(*((200, answers[self.path]) if self.path in answers else (404, b"")))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send(*stream)

            def send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer((HOST, 0), Answering)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://{HOST}:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


IDLE = {"/metrics": METRICS % 0 + POOL, "/v1/models": MODEL, "/version": b'{"version":"0.32.0"}'}


@pytest.mark.parametrize(
    ("answers", "flags", "said"),
    [
        ({}, (), "/metrics gives no answer: is a vLLM server there?"),
        ({"/metrics": b"python_info 1\n"}, (), "has no metrics of vLLM: this works with vLLM servers only"),
        (IDLE | {"/metrics": METRICS % 3 + POOL}, (), "is busy: 3 requests run and 0 wait"),
        (IDLE | {"/metrics": METRICS % 0}, (), "does not tell the size of the KV cache"),
        (IDLE | {"/v1/models": b'{"data":[{"id":"m"}]}'}, (), "does not tell max_model_len"),
        (IDLE | {"/v1/models": b"[]"}, (), "/v1/models is not as vLLM answers"),
        (IDLE | {"/v1/models": b'{"data":[]}'}, (), "--model is needed: "),
        (IDLE, ("--model", "other"), "has no model 'other'; it has m"),
        (IDLE, ("--max-prompt", "40"), "prompts of up to 40 tokens are too short"),
        (IDLE, (), "the server answers 404"),
    ],
)
def test_what_is_not_an_idle_vllm_server_is_refused_in_a_line(
    answers: dict[str, bytes], flags: tuple[str, ...], said: str, scripted: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "profile.yaml"
    ended = calibrate("--url", scripted(answers), "--out", str(out), *flags)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert said in ended.stderr.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'data: {"error":{"message":"out of memory"}}\n\n', "the stream ended with an error: "),
        (b'data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n', "4 tokens were asked for, 1 came"),
        (b"data: nonsense\n\n", "not an event of a completion"),
        (b"data: unfinished", "the server answers 200: data: unfinished"),
    ],
)
def test_a_stream_that_breaks_ends_the_measurement(body: bytes, said: str, scripted: Callable[..., str]) -> None:
    ended = calibrate("--url", scripted(IDLE, stream=(200, body)))
    assert ended.returncode == 1
    assert said in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "https://host:1", "http://", "http://host:99999", "http://h/x"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    ended = calibrate("--url", url)
    assert ended.returncode == 1
    assert f"--url must be http://HOST:PORT, not {url!r}" in ended.stderr


def test_nothing_there_is_one_line() -> None:
    ended = calibrate("--url", f"http://{HOST}:9")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
