"""What dualmap.loadtest.harm counts as harm, and how it looks for it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dualmap.loadtest.harm.__main__ import main
from dualmap.loadtest.harm.case import Case, case_of
from dualmap.loadtest.harm.case_log import CaseLog, Quest
from dualmap.loadtest.harm.harm import BAR, Evaluation, evaluate, judge
from dualmap.loadtest.harm.harm_table import search_lines
from dualmap.loadtest.harm.kinds import Group, group_of, kind_of, overloaded, worst_of_kinds
from dualmap.loadtest.harm.measure import FAILED_S, Measures, measured
from dualmap.loadtest.harm.search import GENERATION, search
from dualmap.loadtest.harm.simplify import simplified
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster_run import ClusterRun, GapHistogram, RequestOutcome
from dualmap.router.cli.main import main as dualmap

QUICK = {"requests": 120, "instances": 4, "gateways": 1, "answer_tokens": 10, "turns": 1, "other_tokens": 300}


def measures(ttft_s: float, e2e_s: float, tpot_s: float | None, attainment: float = 1.0) -> Measures:
    return Measures(
        ttft_p50_s=0.0,
        ttft_p90_s=ttft_s,
        ttft_p99_s=0.0,
        e2e_p50_s=e2e_s,
        tpot_p90_s=tpot_s,
        attainment=attainment,
        load_skew=1.0,
        hit_rate=0.0,
        failed=0,
    )


def harmful(case: Case) -> Evaluation:
    """As if harm grew with the hot share; nothing runs."""
    found = measures(0.07 * (1 + case.hot_share), 1.0, 0.02)
    base = measures(0.07, 1.0, 0.02)
    return replace(judge(case, "dualmap", {"dualmap": found, "round_robin": base, "least_loaded": base}), cpu_s=1.0)


@pytest.mark.parametrize(
    ("policy", "round_robin", "least_loaded", "expected", "worst"),
    [
        ((0.2, 1.0, 0.02), (0.17, 1.0, 0.03), (0.3, 0.98, 0.04), [1.0, 1.0, 0.6452], "ttft_p90_s"),
        ((0.003, 0.004, 0.02), (0.002, 0.003, 0.01), (0.002, 0.003, 0.01), [0.0938, 0.1739, 1.8182], "tpot_p90_s"),
        ((0.1, 2.06, None), (0.1, 1.01, None), (0.1, 5.0, None), [0.7692, 2.0], "e2e_p50_s"),
    ],
)
def test_harm_is_the_worst_ratio_to_the_better_base_and_what_is_allowed(
    policy: tuple[float, float, float | None],
    round_robin: tuple[float, float, float | None],
    least_loaded: tuple[float, float, float | None],
    expected: list[float],
    worst: str,
) -> None:
    found = judge(
        Case(),
        "dualmap",
        {
            "dualmap": measures(*policy),
            "round_robin": measures(*round_robin),
            "least_loaded": measures(*least_loaded),
            "chwbl": measures(1e-9, 1e-9, 1e-9),
        },
    )
    assert list(found.ratios.values()) == expected
    assert (found.harm, found.worst) == (max(expected), worst)


@pytest.mark.parametrize(
    ("attained", "borne", "shortfall"),
    [((1.0, 0.5, 0.99), True, -0.01), ((0.97, 0.98, 0.989), False, 0.019), ((0.9, 0.95, 0.9), False, 0.05)],
)
def test_a_case_that_no_base_bears_is_judged_by_attainment(
    attained: tuple[float, float, float], borne: bool, shortfall: float
) -> None:
    names = ("dualmap", "round_robin", "least_loaded")
    found = judge(Case(), "dualmap", {n: measures(9.0, 1.0, 1.0, a) for n, a in zip(names, attained, strict=True)})
    assert (found.borne, found.shortfall) == (borne, shortfall)
    assert overloaded([found], 5) == ([] if borne else [found])
    assert worst_of_kinds([found], 5, Group.NOT_HOT) == ([found] if borne else [])


def test_measures_leave_out_the_warm_up_and_count_failures_as_never() -> None:
    requests = [WorkRequest(0.0, 1000, 11, ()) for _ in range(50)]
    outcomes = [RequestOutcome(0.0, 99.0, 99.0, True, "i9") for _ in range(10)]
    outcomes += [RequestOutcome(1.0, 1.0 + n / 10, 2.0 + n / 10, True, f"i{n % 2}", 500, 1) for n in range(36)]
    outcomes += [RequestOutcome(1.0, instance_id="i1") for _ in range(4)]
    found = measured(Case(instances=2, slo_s=3.05), Workload("w", requests), ClusterRun(outcomes, GapHistogram()))
    assert found.ttft_p50_s == pytest.approx(2.0)
    assert (found.ttft_p90_s, found.ttft_p99_s) == (FAILED_S, FAILED_S)
    assert found.e2e_p50_s == pytest.approx(3.0)
    assert found.tpot_p90_s == FAILED_S
    assert found.attainment == pytest.approx(31 / 40)
    assert found.load_skew == pytest.approx(22 / 20)
    assert found.hit_rate == pytest.approx(18 / 40)
    assert found.failed == 4


def test_kinds_say_what_matters_and_groups_keep_hot_prefixes_apart() -> None:
    assert kind_of(Case()) == (Group.NOT_HOT, "5 to 16")
    assert kind_of(Case(hot_share=0.5, hot_prefixes=3, turns=2, think_s=0.0, answer_tokens=1, instances=32)) == (
        Group.LONG_TAILS,
        "several for some",
        "agents",
        "prefill only",
        "17 and more",
    )
    assert group_of(Case(hot_share=1.0, tail_tokens=511)) is Group.SHORT_TAILS
    bad = [harmful(Case(hot_share=share, tail_tokens=100)) for share in (0.4, 0.9, 0.8)]
    assert worst_of_kinds(bad, 5, Group.SHORT_TAILS) == [bad[1]]


def test_a_policy_that_piles_up_a_hot_prefix_is_found_by_a_few_cases() -> None:
    quest = Quest("cache_affinity", fixed=QUICK)
    log = CaseLog(None, quest)
    search(quest, log, lambda case: replace(evaluate(case, quest.policy), cpu_s=1.0), cpu_s=20.0)
    assert len(log.evaluations) == 20
    worst = max(one.harm for group in Group for one in worst_of_kinds(log.evaluations, 1, group))
    assert worst > 5 * BAR


def test_round_robin_does_no_harm_to_itself() -> None:
    assert evaluate(Case(requests=100), "round_robin").harm < 1.0


def test_the_search_goes_to_where_harm_is() -> None:
    log = CaseLog(None, Quest())
    search(Quest(), log, harmful, cpu_s=400.0)
    assert len(log.evaluations) == 400
    early, late = (log.evaluations[at : at + 80] for at in (0, 320))
    assert sum(one.harm for one in late) > sum(one.harm for one in early)


def cases(log: CaseLog) -> list[Case]:
    return [one.case for one in log.evaluations]


@pytest.mark.parametrize("cut", [7, 10, 93, 125])
def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(tmp_path: Path, cut: int) -> None:
    whole = CaseLog(None, Quest(seed=4))
    search(Quest(seed=4), whole, harmful, cpu_s=140.0)
    path = tmp_path / "harm.jsonl"
    for seconds, resume in ((cut, False), (140 - cut, True)):
        log = CaseLog(path, Quest(seed=4), resume=resume)
        search(Quest(seed=4), log, harmful, cpu_s=float(seconds))
        log.close()
        with path.open("a") as file:
            file.write('{"harm":')  # a writer that was killed
    assert log.evaluations == whole.evaluations
    assert CaseLog(path, Quest(seed=4), resume=True).evaluations == whole.evaluations


def test_processes_change_nothing_but_the_time() -> None:
    def backwards(evaluate_one: object, generation: Sequence[Case]) -> list[Evaluation]:
        return [harmful(case) for case in reversed(generation)][::-1]

    one, many = CaseLog(None, Quest()), CaseLog(None, Quest())
    search(Quest(), one, harmful, cpu_s=12.0 * GENERATION)
    search(Quest(), many, harmful, 12.0 * GENERATION, backwards)
    assert cases(one) == cases(many)


def test_a_file_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "harm.jsonl"
    CaseLog(path, Quest(seed=1)).close()
    for quest, resume, expected in (
        (Quest(seed=1), False, "exists: give --resume"),
        (Quest(seed=2), True, "was written by"),
        (Quest(seed=1, policy="chwbl"), True, "was written by"),
        (Quest(seed=1, fixed={"turns": 2}), True, "was written by"),
    ):
        with pytest.raises(ValueError, match=expected):
            CaseLog(path, quest, resume=resume)
    path.write_text('{"policy":"dualmap","seed":1,"fixed":{}}\n{"case":{}}\n')
    with pytest.raises(ValueError, match="is no file of a search"):
        CaseLog(path, Quest(seed=1), resume=True)


def test_a_simplified_case_keeps_only_the_fields_that_do_the_harm() -> None:
    steps: list[Evaluation] = []
    worst = harmful(Case(seed=5, hot_share=0.9, turns=4, speed=2.0, gateways=3))
    assert simplified(worst, harmful, steps.append).case == Case(hot_share=0.9)
    assert len(steps) == 4


def test_the_table_has_the_worst_with_a_command_and_other_seeds() -> None:
    log = [harmful(Case(hot_share=share, tail_tokens=50)) for share in (0.2, 1.0)]
    lines = list(search_lines(log, 5, harmful, 2))
    (row,) = (line for line in lines if "TTFT P90" in line)
    assert "1.40 (other seeds 1.40, 1.40)" in row
    assert "TTFT P90 0.140 s, round_robin 0.070 s: hot prefix, tails below a block, one for all" in row
    assert (
        """python -m dualmap.loadtest.harm --case '{"hot_share":1.0,"tail_tokens":50}'""" in lines[lines.index(row) + 1]
    )
    assert any("no hot prefix: no harm found" in line for line in lines)


def test_the_command_searches_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "harm.jsonl"
    fixed = [word for name, value in QUICK.items() for word in ("--fix", f"{name}={value}")]
    command = ["--minutes", "0.005", "--out", str(out), "--check", "1", *fixed]
    assert main(command) == 0
    made = len(out.read_text().splitlines()) - 1
    assert made >= 1
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {"policy": "dualmap", "seed": 0, "fixed": QUICK}
    assert len(rows) - 1 > made
    assert set(rows[1]["measures"]) == {"dualmap", "round_robin", "least_loaded"}
    assert case_of(json.dumps(rows[1]["case"])).requests == 120


def test_one_case_is_shown_with_all_policies_and_written_as_a_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "journal.jsonl"
    case = '{"requests":400,"hot_share":1,"tail_tokens":50,"gateways":2,"answer_tokens":5}'
    assert main(["--case", case, "--peers", "chwbl", "--journal", str(journal)]) == 0
    said = capsys.readouterr().out
    for word in ("dualmap", "round_robin", "least_loaded", "chwbl", "TPOT P90 ms", "harm"):
        assert word in said
    for path in (journal, tmp_path / "journal.gateway-1.jsonl"):
        assert dualmap(["replay-journal", str(path)]) == 0
    told = journal.read_text() + (tmp_path / "journal.gateway-1.jsonl").read_text()
    assert told.count('"RequestArrived"') == 300


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--case", "{"], "a case is a JSON object"),
        (["--policy", "best"], "no policy 'best'"),
        (["--policy", "chwbl,llm_d"], "--policy takes one policy"),
        (["--fix", "turns"], "--fix takes NAME=VALUE"),
        (["--fix", "turn=1"], "no field 'turn'"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--minutes", "-1"], "--minutes at least 0"),
    ],
)
def test_refuses_what_cannot_be_used(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
