"""peers.py and its parts: what is run, what clients' files come to, the tables, and runs that are not repeated."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from dualmap.loadtest.experiments import peers, peers_run
from dualmap.loadtest.experiments.peers_aiperf import AiperfError, own_goodput, read_answers
from dualmap.loadtest.experiments.peers_measured import (
    Answer,
    Measured,
    Objectives,
    against_best_peer,
    shares_and_times,
    table,
)
from dualmap.loadtest.experiments.peers_run import Bench, Run
from dualmap.loadtest.experiments.peers_workloads import WORK, requests_of
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.overhead.measured_proxy import ProxyError, why_no_nginx
from dualmap.loadtest.overhead.peers import why_no_peers

ROOT = Path(__file__).parents[3]
MEASURED = Measured(
    work="conversation",
    rate=8.0,
    router="dualmap",
    settings="",
    client="replay",
    version="dualmap",
    started_at="2026-11-30T12:00:00+00:00",
    requests=10,
    failed=0,
    attained=0.9,
    attained_both=0.8,
    ttft_p50_s=1.0,
    ttft_p90_s=2.0,
    ttft_p99_s=3.0,
    e2e_p50_s=10.0,
    e2e_p90_s=20.0,
    inter_token_s=0.05,
    cached=0.3,
    load=1.0,
    steal=0.0,
    took_s=30.0,
    router_cpu_s=1.0,
)


def record(ttft_ms: float, latency_ms: float, gap_ms: float | None) -> dict:
    metrics = {
        "time_to_first_token": {"value": ttft_ms, "unit": "ms"},
        "request_latency": {"value": latency_ms, "unit": "ms"},
    }
    if gap_ms is not None:
        metrics["inter_token_latency"] = {"value": gap_ms, "unit": "ms"}
    return {"metadata": {}, "metrics": metrics, "error": None}


def test_aiperfs_records_are_read_and_its_errors_are_failures(tmp_path):
    rows = [record(1200, 4000, 20), record(900, 900, None), {"metadata": {}, "metrics": {}, "error": {"code": 500}}]
    (tmp_path / "profile_export.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "profile_export_aiperf.json").write_text('{"goodput": {"unit": "requests/sec", "avg": 2.5}}')
    assert read_answers(tmp_path) == [Answer(True, 1.2, 4.0, 0.02), Answer(True, 0.9, 0.9, None), Answer(False)]
    assert own_goodput(tmp_path) == 2.5


def test_files_that_aiperf_did_not_leave_are_named(tmp_path):
    with pytest.raises(AiperfError, match=r"profile_export\.jsonl"):
        read_answers(tmp_path)
    with pytest.raises(AiperfError, match=r"profile_export_aiperf\.json"):
        own_goodput(tmp_path)


def test_a_request_without_an_answer_has_failed_and_is_out_of_time():
    answers = [Answer(True, 1.0, 2.0, 0.05), Answer(True, 1.0, 2.0, 0.5), Answer(True, 9.0, 9.0), Answer(False)]
    found = shares_and_times(answers, 5, Objectives(5.0, 0.1))
    assert (found["failed"], found["attained"], found["attained_both"]) == (2, 0.4, 0.2)


def test_the_best_goodput_of_a_rate_is_bold_and_ours_is_held_against_the_best_of_the_others():
    slow = replace_(MEASURED, router="nginx", version="nginx 1.22", attained=0.6, attained_both=0.4, ttft_p50_s=2.0)
    lines = table([slow, MEASURED])
    assert lines[2].startswith("| nginx 1.22 | 8/s | 4.80/s | 60.0% | 40.0% |")
    assert lines[3].startswith("| dualmap | 8/s | **7.20/s** |")
    assert (
        against_best_peer([slow, MEASURED])[2]
        == "| 8/s | nginx 1.22, 60.0% | 1.50 | 2.00 | 0.50 | 1.00 | 1.00 | 1.00 |"
    )


def replace_(measured: Measured, **changes) -> Measured:
    return msgspec.structs.replace(measured, **changes)


def test_every_router_serves_every_work_at_every_rate():
    runs = peers.plan(WORK)
    assert len({run.name for run in runs}) == len(runs)
    replayed = {(r.work.name, r.rate, r.router) for r in runs if r.client == "replay"}
    routers = {"nginx", "vllm-router", "smg", "sglang-router", "dualmap"}
    assert replayed == {(w.name, rate, name) for w in WORK for rate in w.rates for name in routers}


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_without_traces_there_is_synthetic_work_at_the_rate_that_was_asked_for(work):
    bench = Bench(ports=(), model="sim", out=Path(), peers=Path(), faster=2.0)
    requests = bench.requests(Run(work, work.rates[1], "nginx", "", "replay"))
    assert len(requests) == work.requests
    assert requests[-1].timestamp_ms / 1000 == pytest.approx(work.requests / work.rates[1] / 2, rel=0.01)
    assert bench.objectives(work) == Objectives(work.ttft_slo_s / 2, 0.05)


def test_one_system_prompt_stands_before_all_prompts_of_the_hot_work():
    requests = requests_of(WORK[2], None)
    assert {request.hash_ids[:12] for request in requests} == {tuple(range(12))}
    own = [block for request in requests for block in request.hash_ids[12:]]
    assert len(set(own)) == len(own)


def test_a_run_that_is_there_is_not_repeated_and_one_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(run: Run, bench: Bench) -> Measured:
        asked.append(run.router)
        if run.router == "smg":
            raise ProxyError("smg does not answer")
        return replace_(MEASURED, router=run.router, version=run.router)

    for name in ("why_no_peers", "why_no_nginx"):
        monkeypatch.setattr(peers, name, lambda *_: None)
    monkeypatch.setattr(peers, "measure", measure)
    command = ["--out", str(tmp_path), "--only", "conversation-8-,replay,recommended", "--ports", "1,2"]
    assert run_as_program(peers.add_arguments, peers.run, command) == 1
    assert asked == ["vllm-router", "sglang-router", "smg"]
    assert "smg does not answer" in capsys.readouterr().err
    assert run_as_program(peers.add_arguments, peers.run, command) == 1
    assert asked[3:] == ["smg"]
    assert "2 of 3 runs" in capsys.readouterr().out
    assert run_as_program(peers.add_arguments, peers.run, [*command, "--list"]) == 0
    assert len(asked) == 4


@pytest.mark.slow
def test_a_few_requests_go_through_another_router_and_ours(tmp_path):
    environment = ROOT / ".venv-peers"
    if reason := why_no_peers(environment) or why_no_nginx():
        pytest.skip(reason)
    with peers_run.simulated_servers(10.0, tmp_path / "servers") as ports:
        bench = Bench(ports=ports, model="sim", out=tmp_path, peers=environment, faster=10.0, share=0.05)
        for router, settings in (("vllm-router", "recommended"), ("dualmap", "both objectives"), ("nginx", "")):
            found = peers_run.measure(Run(WORK[0], 2.0, router, settings, "replay"), bench)
            assert (found.requests, found.failed) == (round(WORK[0].requests * 0.05), 0), (found, os.listdir(tmp_path))
