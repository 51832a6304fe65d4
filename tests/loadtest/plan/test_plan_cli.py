"""`dualmap plan`: what it prints and refuses, with runs in virtual time."""

import json
from pathlib import Path

import pytest

from dualmap.loadtest.plan.windows import LEAST_S, in_windows, of_length
from dualmap.loadtest.study.simulated_capacity import guess_qps
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import TraceRequest, write_trace
from dualmap.loadtest.virtual.objectives import TTFT_TPOT
from dualmap.loadtest.virtual.simulated_workload import Setup, recorded_qps, work_of_request, workload_of
from dualmap.loadtest.virtual.step_sizes import paced_steps
from dualmap.router.cli.main import main as dualmap

USUAL = ("--instances", "3", "--limit", "60", "--warmup", "6", "--seeds", "1", "--jobs", "1")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "chats.jsonl"
    write_trace(path, synthesise(SynthConfig(requests=240, qps=1.5)))
    return path


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 prompts of 8,000 tokens with 20 tokens of answer, then 80 of 600 tokens with 500."""
    path = tmp_path_factory.mktemp("traces") / "day.jsonl"
    kinds = [(8000, 20)] * 80 + [(600, 500)] * 80
    write_trace(
        path,
        [
            TraceRequest(number * 500, prompt, answer, tuple(100 * number + i for i in range(-(-prompt // 512))))
            for number, (prompt, answer) in enumerate(kinds)
        ],
    )
    return path


def plan_command(trace: Path | str, *more: str) -> int:
    return dualmap(["plan", str(trace), *USUAL, *more])


def test_prints_each_split_and_what_to_do(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "plan.html"
    assert plan_command(trace, "--tpot", "0.05", "--html", str(page)) == 0
    out, err = capsys.readouterr()
    table, _, said = out.partition("\n\n")
    steps = paced_steps([Setup(str(trace), limit=60, objective=TTFT_TPOT, tpot_s=0.05)])
    mixed = ["mixed", *(f"mixed, steps of {tokens} tokens" for tokens in steps)]
    assert [line.split("  ")[0] for line in table.splitlines()[2:]] == [*mixed, "1 + 2", "2 + 1"]
    assert "3 mixed instances with steps of " in said.splitlines()[0]
    assert "--max-num-batched-tokens" in said.splitlines()[1]
    assert "8/8 searches" in err
    assert "<svg" in page.read_text()


def test_a_plan_is_the_same_whatever_the_number_of_processes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = []
    for jobs in ("1", "2"):
        assert plan_command(trace, "--json", "--instances", "2", "--limit", "40", "--jobs", jobs) == 0
        plans.append(json.loads(capsys.readouterr().out))
    assert plans[0] == plans[1]
    exact = [split for split in plans[0]["windows"][0]["splits"] if split["exact"]]
    steps = plans[0]["small_steps"]["step_tokens"]
    assert [(split["prefill"], split["step_tokens"]) for split in exact] == [(0, None), (0, steps), (1, None)]


def test_windows_of_other_work_want_other_splits(two_kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--windows", "2", "--slo", "3", "--tpot", "0.012", "--json")
    assert plan_command(two_kinds, *more) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [window["seconds"] for window in plan["windows"]] == [[0.0, 39.75], [39.75, 80.5]]
    worth = [{s["prefill"]: s["worth"] for s in window["splits"] if s["prefill"]} for window in plan["windows"]]
    assert worth[0][2] > worth[0][1], "prompts are all the work there is"
    assert worth[1][1] > worth[1][2], "answers are"
    assert max(one["loses_at_worst"] for one in plan["fixed"] if one["prefill"]) > 0.2


def test_small_steps_can_have_a_profile_of_their_own(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "small-steps.yaml"
    worth = []
    for overhead_s in (0.0, 0.2):
        measured.write_text(f"{{max_num_batched_tokens: 128, max_num_seqs: 64, step_overhead_s: {overhead_s}}}\n")
        more = ("--tpot", "0.05", "--mixed-model", str(measured), "--instances", "2", "--json")
        assert plan_command(trace, "--qps", "1", *more) == 0
        plan = json.loads(capsys.readouterr().out)
        splits = plan["windows"][0]["splits"]
        worth.append({(split["prefill"], split["step_tokens"]): split["worth"] for split in splits})
        assert plan["small_steps"]["vllm_arguments"] == "--max-num-batched-tokens 128 --max-num-seqs 64"
    assert worth[0].keys() == worth[1].keys() == {(0, None), (0, 128), (1, None)}
    changed = {place for place in worth[0] if worth[0][place] != worth[1][place]}
    assert changed == {(0, 128)}
    assert worth[1][0, 128] < worth[0][0, 128]


def test_an_objective_without_a_pace_has_no_small_steps(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(trace, "--objective", "ttft", "--qps", "1", "--instances", "2", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert {split["step_tokens"] for split in plan["windows"][0]["splits"]} == {None}
    assert plan["small_steps"] is None


def test_the_recorded_rate_finds_the_fewest_instances(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command(trace, "--qps", "recorded", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    (window,) = plan["windows"]
    assert window["qps"] == pytest.approx(1.5, rel=0.4)
    assert all(0 <= split["worth"] <= 1 for split in window["splits"])
    assert 1 <= plan["smallest"]["instances"] <= 6


def test_the_recorded_rate_keeps_the_times_of_the_trace(trace: Path) -> None:
    setup = Setup(str(trace), instances=64, limit=100, warmup=10, overlaid=False)
    first, second = in_windows(setup, 2)
    for window in (first, second):
        found = [r.arrival_s for r in workload_of(window, recorded_qps(window), 0).requests]
        assert len(found) == 100
        assert found[0] == 0.0
        assert found[-1] == pytest.approx(100 / recorded_qps(window))
    whole = workload_of(Setup(str(trace), limit=240), 1.5, 0).requests
    assert whole[0].blocks == workload_of(first, 1.0, 0).requests[0].blocks
    assert {r.blocks for r in workload_of(second, 1.0, 0).requests} < {r.blocks for r in whole}


@pytest.mark.parametrize("instances", [3, 16])
def test_a_run_lasts_as_long_as_queues_need_to_grow(trace: Path, instances: int) -> None:
    setup = Setup("synth:hot-short", instances=instances, limit=1000)
    found = of_length(setup, None, None, None)
    assert found.limit * found.copies / guess_qps(setup) == pytest.approx(LEAST_S, rel=0.1)
    assert of_length(setup, None, None, 100.0).limit * found.copies == pytest.approx(100 * LEAST_S, abs=found.copies)
    assert (found.warmup, of_length(setup, 50, 3, None).warmup) == (found.limit // 10, 3)


def test_work_is_of_prompts_and_of_answers(two_kinds: Path) -> None:
    early, late = in_windows(Setup(str(two_kinds), limit=80, warmup=8), 2)
    assert work_of_request(early).prefill_s > 100 * work_of_request(early).decode_s
    assert work_of_request(late).decode_s > 0.1 * work_of_request(late).prefill_s


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--instances", "1"], "--instances must be at least 2, not 1"),
        (["--windows", "0"], "--windows must be at least 1"),
        (["--windows", "40"], "--warmup must be below the number of requests from "),
        (["--warmup", "60"], "--warmup must be below the number of requests, 60, not 60"),
        (["--qps", "fast"], "--qps takes a number above 0, or recorded, not 'fast'"),
        (["--qps", "0"], "--qps takes a number above 0"),
        (["--attainment", "90"], "--attainment must be above 0 and below 1"),
        (["--tpot", "0"], "--tpot must be above 0"),
        (["--policy", "best"], "no policy 'best'"),
        (["--policy", "dualmap,llm_d"], "--policy takes one policy"),
        (["--set", "max_moves=0"], "max_moves must be greater than 0"),
        (["--model", "gpt"], "models are full"),
        (["--mixed-model", "gpt"], "models are full"),
        (["--max-input-tokens", "3"], "no request with a prompt of at most 3 tokens"),
    ],
)
def test_refuses_what_cannot_be_used(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert plan_command(trace, *more) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1


def test_work_without_a_clock_has_neither_windows_nor_a_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command("synth:hot", "--windows", "2") == 2
    assert "--windows is for traces of arrivals" in capsys.readouterr().err
    assert plan_command("nowhere.jsonl") == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
