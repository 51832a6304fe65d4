"""`dualmap simulate` and the study: what they print, what they write, how they go on, what they refuse."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dualmap.loadtest.formats import read_workload
from dualmap.loadtest.study.__main__ import main as study
from dualmap.loadtest.study.cells import half, study_cells
from dualmap.loadtest.study.file import StudyCapacity, StudyRun, read_studies
from dualmap.loadtest.study.log import StudyLog, contender_key
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.study.simulation_jobs import CapacityJob, RateJob, job_key
from dualmap.loadtest.traces.steady_sessions import steady_sessions
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.loadtest.virtual.disturbances import DISTURBANCES, burst_time_s, load_disturbance
from dualmap.loadtest.virtual.models import MODELS, load_model
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
from dualmap.router.cli.main import main as dualmap
from tests.conftest import WAIT_S, await_that


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "chats.jsonl"
    write_trace(path, synthesise(SynthConfig(requests=300, qps=4.0)))
    return path


def simulate_command(trace: Path, *more: object) -> int:
    usual = ["--limit", 160, "--warmup", 10, "--instances", 4, "--jobs", 1]
    return dualmap(["simulate", str(trace), *map(str, (*usual, *more))])


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prints_a_line_for_each_policy_and_rate(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_command(trace, "--policy", "dualmap,round_robin", "--bound", "--qps", "2,3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["policy", *["dualmap", "round_robin", "bound"] * 2]
    assert "within SLO" in lines[0]


def test_a_cluster_that_scales_itself_shows_its_hours_and_plans(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.jsonl"
    scaled = ["simulate", str(trace), "--limit", "300", "--warmup", "50", "--jobs", "1", "--qps", "2"]
    scaled += ["--scale", "1-4", "--start-s", "5", "--out", str(out)]
    assert dualmap(scaled) == 0
    heading, numbers, *plans = capsys.readouterr().out.splitlines()
    assert heading.split()[-2:] == ["instance-hours", "plans"]
    row = rows(out)[1]
    assert (row["instances"], row["failed"]) == (4, 0)
    *_, hours, count = numbers.split()
    assert (float(hours), int(count)) == (pytest.approx(row["instance_s"] / 3600, abs=0.005), len(plans))
    assert [plan.split(" s  ", 1)[1] for plan in plans] == [reason for _, reason in row["plans"]]
    assert "wanted" in plans[0]
    simulate_command(trace, "--qps", "2", "--out", out, "--resume")
    assert len(rows(out)) == 3, "a cluster of fixed size is another setup"
    assert "instance-hours" not in capsys.readouterr().out


def test_prints_capacities_and_their_ratio_to_the_best(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_command(trace, "--policy", "dualmap,round_robin", "--capacity", "--attainment", "0.9") == 0
    _, heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["policy", "at", "0.9"]
    assert {line.split()[0] for line in lines} == {"dualmap", "round_robin"}
    assert lines[0].split()[-1] == "1.000"


def test_another_objective_is_another_cell(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study.jsonl"
    for more in ((), ("--objective", "ttft+tpot"), ("--objective", "ttft+tpot", "--tpot", "0.01")):
        assert simulate_command(trace, "--qps", "3", "--out", out, "--resume", *more) == 0
    found = read_studies([out])
    assert [run.objective for run in found.runs] == ["ttft", "ttft+tpot", "ttft+tpot"]
    assert len({contender_key(run) for run in found.runs}) == 3
    assert [run.attainment for run in found.runs] == [run.kept[run.objective] for run in found.runs]
    assert found.runs[2].attainment < found.runs[1].attainment
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("policy")]
    assert ["within SLO" in headings[0], *("within ttft+tpot" in line for line in headings[1:])] == [True] * 3
    assert simulate_command(trace, "--capacity", "--attainment", "0.5", "--objective", "itl+e2e") == 0
    assert capsys.readouterr().out.startswith("capacity in requests/s, 4 instances, within itl+e2e\n")


def test_other_steps_are_another_cell(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    for more in ((), ("--max-num-batched-tokens", 128)):
        assert simulate_command(trace, "--qps", "4", "--out", out, "--resume", *more) == 0
    usual, small = read_studies([out]).runs
    assert (usual.step_tokens, small.step_tokens) == (0, 128)
    assert usual.cell != small.cell
    assert small.setup == usual.setup + ", steps of 128 tokens"
    assert small.itl_p99_s < 0.5 * usual.itl_p99_s


def test_a_workload_is_named_where_there_is_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    assert simulate_command(Path("synth:hot-60"), "--qps", "2", "--out", out) == 0
    assert [(row["trace"], row["requests"]) for row in rows(out)[1:]] == [("synth:hot-60", 150)]


def test_the_file_is_a_study_that_the_report_reads(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    assert simulate_command(trace, "--capacity", "--attainment", "0.9,0.95", "--seeds", "2", "--out", out) == 0
    found = read_studies([out])
    assert len(found.headers) == 1
    assert [(c.seed, c.attainment) for c in found.capacities] == [(0, 0.9), (0, 0.95), (1, 0.9), (1, 0.95)]
    assert all(len(run.ttft_quantiles) == 101 and run.requests == 150 for run in found.runs)
    assert dualmap(["report", str(out)]) == 0


def test_rows_come_back_as_they_were_written(trace: Path) -> None:
    setup = Setup(str(trace), instances=2, limit=100, warmup=20)
    made = simulate(setup, Contender("dualmap", 1, (("rebalancing", False),)), 1.0)
    assert msgspec.json.decode(msgspec.json.encode(made), type=StudyRun) == made
    assert contender_key(made) == job_key(RateJob(setup, Contender("dualmap", 1, (("rebalancing", False),)), (1.0,)))
    assert made.config == {"rebalancing": False}


def test_resume_does_what_the_file_lacks(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study.jsonl"
    simulate_command(trace, "--qps", "2", "--out", out)
    before = out.read_text()
    assert simulate_command(trace, "--qps", "2,3", "--out", out) == 2
    assert "--resume" in capsys.readouterr().err
    assert simulate_command(trace, "--qps", "2,3", "--out", out, "--resume") == 0
    assert out.read_text().startswith(before)
    assert [row["qps"] for row in rows(out)[1:]] == [2.0, 3.0]
    assert simulate_command(trace, "--qps", "2,3", "--out", out, "--resume", "--limit", "120") == 0
    assert len(rows(out)) == 5, "less of the trace is another setup"


def test_resume_drops_half_a_line_and_goes_on_with_a_search(trace: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    search = ("--capacity", "--attainment", "0.9,0.99", "--resume", "--out")
    simulate_command(trace, *search, whole)
    cut.write_text(whole.read_text()[:-200])
    simulate_command(trace, *search, cut)
    for path in (whole, cut):
        kept = [{k: v for k, v in row.items() if k != "cpu_s"} for row in rows(path)]
        assert len(kept) == len({json.dumps(row) for row in kept})
    assert {(r["qps"], r["attainment"]) for r in rows(whole)[1:]} == {
        (r["qps"], r["attainment"]) for r in rows(cut)[1:]
    }


def test_workers_find_what_one_process_finds(trace: Path, tmp_path: Path) -> None:
    seen = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.jsonl"
        simulate_command(trace, "--policy", "dualmap,chwbl", "--qps", "2,4", "--jobs", jobs, "--out", out)
        seen.append({(r["policy"], r["qps"]): (r["attainment"], r["ttft_quantiles"]) for r in rows(out)[1:]})
    assert seen[0] == seen[1]


def test_ctrl_c_ends_all_workers_and_keeps_what_is_finished(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    command = [sys.executable, "-m", "dualmap", "simulate", str(trace), "--policy", "all", "--capacity"]
    command += ["--jobs", "2", "--out", str(out), "--limit", "300", "--warmup", "50", "--seeds", "50"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    await_that(lambda: out.exists() and len(out.read_text().splitlines()) >= 4, "some runs are finished")
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=WAIT_S)
    assert child.returncode == 130
    assert "interrupted" in said
    assert read_studies([out]).runs


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--qps", "0"], "--qps must be above 0"),
        (["--qps", "two"], "--qps takes numbers"),
        (["--qps", "1", "--policy", "best"], "no policy 'best'"),
        (["--qps", "1", "--set", "nonsense=1"], "names are"),
        (["--qps", "1", "--set", "rebalancing=maybe"], "takes true or false"),
        (["--qps", "1", "--set", "max_moves=0"], "max_moves must be greater than 0"),
        (["--qps", "1", "--model", "gpt"], "models are full"),
        (["--qps", "1", "--disturbance", "flood"], "there are none"),
        (["--qps", "1", "--instances", "1.5"], "--instances takes whole numbers"),
        (["--qps", "1", "--instances", "inf"], "--instances takes whole numbers"),
        (["--qps", "1", "--instances", "1", "--disturbance", "lose-one"], "needs more than 1 instances"),
        (["--qps", "1", "--bound", "--disturbance", "lose-one"], "the bound is for"),
        (["--qps", "1", "--warmup", "300"], "--warmup must be below"),
        (["--qps", "1", "--slo", "-1"], "--slo must be above 0"),
        (["--qps", "1", "--tpot", "0"], "--tpot must be above 0"),
        (["--qps", "1", "--max-input-tokens", "3"], "no request with a prompt of at most 3 tokens"),
        (["--capacity", "--attainment", "90"], "--attainment must be above 0 and below 1"),
        (["--capacity", "--journal", "j.jsonl"], "--journal is for a single run"),
        (["--qps", "1", "--resume"], "--resume needs"),
        (["--qps", "1", "--start-s", "0"], "--start-s must be above 0"),
    ],
)
def test_refuses_what_cannot_be_used(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert simulate_command(trace, *more) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--qps", "1", "--scale", "4-1"], "--scale takes MIN-MAX"),
        (["--qps", "1", "--scale", "4"], "--scale takes MIN-MAX"),
        (["--capacity", "--scale", "1-4"], "--scale is for --qps"),
        (["--qps", "1", "--scale", "1-4", "--bound"], "the bound is for"),
        (["--qps", "1", "--scale", "1-4", "--disturbance", "lose-one"], "for instances that nothing scales"),
    ],
)
def test_refuses_to_scale_what_cannot_be_scaled(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert dualmap(["simulate", str(trace), "--warmup", "0", *more]) == 2
    assert expected in capsys.readouterr().err


def test_refuses_a_trace_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_command(Path("nowhere.jsonl"), "--qps", "1") == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_a_journal_of_a_simulated_run_can_be_replayed(trace: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    assert simulate_command(trace, "--qps", "3", "--journal", journal) == 0
    assert dualmap(["replay-journal", str(journal)]) == 0


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_every_disturbance_runs_and_counts_every_request(trace: Path, disturbance: str) -> None:
    setup = Setup(str(trace), instances=4, limit=200, warmup=20, disturbance=disturbance)
    row = simulate(setup, Contender("dualmap"), 2.0)
    assert row.complete
    assert row.requests == (200 if disturbance == "cold-start" else 180)
    assert row.disturbance == disturbance
    assert row.gateways == DISTURBANCES[disturbance].gateways


def test_a_burst_keeps_the_mean_rate_and_the_order() -> None:
    times = [burst_time_s(number / 10, DISTURBANCES["burst"]) for number in range(6000)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(600, abs=1)
    assert sum(135 <= at < 165 for at in times) == pytest.approx(900, abs=1)


def test_models_and_disturbances_come_from_files_too(tmp_path: Path) -> None:
    model = tmp_path / "small.yaml"
    model.write_text("kv_tokens: 200000\nstep_base_s: 0\n")
    loaded = load_model(str(model))
    assert (loaded.name, loaded.profile.kv_tokens, loaded.profile.block_size) == ("small", 200_000, 512)
    assert MODELS["full"].profile.prefill_s_per_token == loaded.profile.prefill_s_per_token
    disturbance = tmp_path / "two.json"
    disturbance.write_text('{"lost_count": 2}')
    assert load_disturbance(str(disturbance)).lost_count == 2
    for name, text, expected in (
        ("a.yaml", "kv_token: 1", "unknown field 'kv_token'"),
        ("b.yaml", "kv_tokens: many", "kv_tokens must be a number"),
        ("c.yaml", "kv_tokens: 3", "kv_tokens must be at least"),
        ("d.yaml", "[1]", "expected names with values"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=expected):
            load_model(str(tmp_path / name))


def test_a_measured_profile_is_a_model_with_the_blocks_of_the_trace() -> None:
    path = Path(__file__).parents[3] / "deploy" / "profiles" / "cpu-small.yaml"
    profile = load_model(str(path)).profile
    assert (profile.block_size, profile.kv_tokens, profile.max_model_len) == (512, 64_000, 16_384)
    assert profile.api_s > 0


def test_the_way_to_the_engine_is_part_of_the_first_token(trace: Path, tmp_path: Path) -> None:
    ttfts = []
    for api_s in (0.0, 0.5):
        model = tmp_path / f"api-{api_s}.yaml"
        model.write_text(f"api_s: {api_s}")
        setup = Setup(str(trace), instances=4, limit=60, warmup=10, model=str(model))
        ttfts.append(simulate(setup, Contender("round_robin"), 0.5).ttft_p50_s)
    assert ttfts[1] == pytest.approx(ttfts[0] + 0.5, abs=0.05)


def test_a_seed_moves_arrivals_and_a_larger_cluster_gets_copies(trace: Path) -> None:
    setup = Setup(str(trace), limit=100)
    as_it_is, moved = (workload_of(setup, 2.0, seed).requests for seed in (0, 1))
    assert [r.arrival_s for r in as_it_is] != [r.arrival_s for r in moved]
    assert max(abs(a.arrival_s - b.arrival_s) for a, b in zip(as_it_is, moved, strict=True)) < 4
    sizes = {n: Setup(str(trace), instances=n).copies for n in (1, 8, 16, 64, 256)}
    assert sizes == {1: 1, 8: 1, 16: 2, 64: 4, 256: 8}


def test_steady_sessions_keep_their_rate_from_the_start(trace: Path) -> None:
    chats = read_workload(trace, turns=True)
    steady = steady_sessions(chats, 2000, 5.0, seed=3)
    assert len(steady.requests) == 2000
    arrivals = [r.arrival_s for r in steady.requests]
    halves = arrivals[1000] - arrivals[0], arrivals[-1] - arrivals[1000]
    assert sum(halves) == pytest.approx(400, rel=0.25)
    assert halves[0] == pytest.approx(halves[1], rel=0.35)
    assert all(r.after is None or r.after < i for i, r in enumerate(steady.requests))
    assert steady_sessions(chats, 2000, 5.0, seed=3) == steady


def test_study_cells_have_names_of_their_own_and_settings_that_exist() -> None:
    cells = study_cells(Path("traces"))
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names))
    assert {type(job) for cell in cells for job in cell.jobs} == {RateJob, CapacityJob}
    keys = [(type(job), job_key(job)) for cell in cells for job in cell.jobs if isinstance(job, CapacityJob)]
    assert len(keys) == len(set(keys))


def test_hot_prefixes_are_compared_with_policies_that_spread_them() -> None:
    for cell in study_cells(Path("traces")):
        if "synth:hot" in cell.name:
            assert {"dualmap", "round_robin", "least_loaded"} <= {job.contender.policy for job in cell.jobs}, cell.name


def test_the_study_has_cells_of_each_kind() -> None:
    names = [cell.name for cell in study_cells(Path("traces"))]
    for expected in (
        "capacity synth:hot full 8 seed-0",
        "capacity synth:hot full 64 seed-0",
        "capacity synth:low-reuse full 8 seed-0",
        "capacity mooncake_conversation full 8 signals-50ms seed-0",
        "capacity mooncake_conversation full 8 signals-200ms seed-0",
        "capacity mooncake_conversation full 8 told-answers seed-0",
        "capacity mooncake_conversation prefill-only 8 itl+e2e seed-0",
        "capacity weka_agentic full 8 ttft+tpot seed-0",
        "roles weka_agentic full 8 ttft+tpot 30ms",
        "roles mooncake_conversation full 64 ttft+tpot 30ms",
    ):
        assert expected in names


def test_the_study_lists_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert study(["--traces", "traces", "--list", "--only", "lose-one"]) == 0
    out, err = capsys.readouterr()
    assert "lose-one" in out
    assert "left out" in err
    assert study(["--traces", "traces", "--only", "no such cell"]) == 2


def test_a_log_without_a_path_keeps_rows_in_memory() -> None:
    with StudyLog(None) as log:
        row = StudyCapacity(trace="t", policy="p", instances=1, seed=0, model="m", slo_s=5.0, attainment=0.9, qps=1.0)
        log.add(row)
        assert log.capacities_of(contender_key(row)) == [row]
        assert log.capacities_in(row.cell) == [row]


def test_a_study_can_be_of_some_policies_and_half_of_the_requests(tmp_path: Path, capsys) -> None:
    named = ["--traces", str(tmp_path), "--only", "capacity synth:hot full 8 seed-0", "--policy", "dualmap,round_robin"]
    assert study([*named, "--half", "--list"]) == 0
    assert capsys.readouterr().out == "capacity synth:hot full 8 seed-0: 2 jobs\n"
    assert study(["--traces", str(tmp_path), "--policy", "fastest"]) == 2
    assert "no policy 'fastest'" in capsys.readouterr().err
    (cell,) = [cell for cell in study_cells(tmp_path) if cell.name == "capacity synth:hot full 8 seed-0"]
    assert {job.setup.limit for job in half(cell).jobs} == {4000}
