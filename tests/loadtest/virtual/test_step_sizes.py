"""Steps of mixed instances that are as small as a pace asks for."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dualmap.loadtest.study.cells import PACES_S, SMALL_STEPS
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.virtual.objectives import ITL_E2E, ITL_S, OBJECTIVES, TTFT_TPOT
from dualmap.loadtest.virtual.simulated_workload import Setup, work_of_request
from dualmap.loadtest.virtual.step_sizes import full_step_s, paced_steps

WORK = Setup("synth:hot-short", instances=2, limit=300, warmup=50, objective=TTFT_TPOT, tpot_s=0.04)
HALF, *_, USUAL, WHOLE, MORE = range(5)


def test_a_step_that_fits_takes_the_time_of_a_token_and_others_are_shares_of_it() -> None:
    steps = paced_steps([WORK])
    assert full_step_s(WORK, steps[WHOLE]) == pytest.approx(WORK.tpot_s, rel=0.05)
    assert steps[HALF] == pytest.approx(0.5 * steps[WHOLE], abs=8)
    assert steps[MORE] == pytest.approx(1.2 * steps[WHOLE], abs=8)
    assert all(before < after for before, after in pairwise(steps))


def test_instances_that_are_busy_all_the_time_keep_the_pace_in_such_steps_alone() -> None:
    """At twice the rate that they bear: each step is full."""
    qps = 2 * WORK.instances / work_of_request(WORK).total_s
    small, usual = (
        simulate(replace(WORK, step_tokens=tokens), Contender("dualmap"), qps)
        for tokens in (paced_steps([WORK])[USUAL], 0)
    )
    assert small.itl_p50_s == pytest.approx(WORK.tpot_s * 0.85, rel=0.15)
    assert small.tpot_p90_s < WORK.tpot_s < usual.tpot_p90_s


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in (TTFT_TPOT, ITL_E2E)])
def test_an_objective_without_a_pace_asks_for_no_small_steps(objective: str) -> None:
    assert paced_steps([replace(WORK, objective=objective)]) == []


def test_the_pace_is_that_of_the_objective() -> None:
    assert paced_steps([replace(WORK, objective=ITL_E2E)]) == paced_steps([replace(WORK, tpot_s=ITL_S)])


@pytest.mark.parametrize("tpot_s", [100.0, 0.0001])
def test_a_pace_that_is_no_limit_or_cannot_be_kept_asks_for_none(tpot_s: float) -> None:
    assert paced_steps([replace(WORK, tpot_s=tpot_s)]) == []


def test_what_a_step_costs_besides_its_work_makes_it_smaller(tmp_path: Path) -> None:
    costly = tmp_path / "costly.yaml"
    costly.write_text("step_overhead_s: 0.02\n")
    assert paced_steps([replace(WORK, model=str(costly))])[WHOLE] == pytest.approx(paced_steps([WORK])[HALF], abs=8)
    costly.write_text("step_overhead_s: 0.05\n")
    assert paced_steps([replace(WORK, model=str(costly))]) == []


def test_of_different_work_the_one_with_the_smallest_steps_counts() -> None:
    others = replace(WORK, trace="synth:hot")
    both = paced_steps([WORK, others])
    assert both == paced_steps([others, WORK]) == min(paced_steps([WORK]), paced_steps([others]))
    assert paced_steps([WORK]) != paced_steps([others])


def test_no_more_requests_run_than_a_step_has_tokens() -> None:
    assert replace(WORK, step_tokens=64).profile.max_num_seqs == 64
    assert replace(WORK, step_tokens=640).profile.max_num_seqs == WORK.profile.max_num_seqs == 256


@pytest.mark.slow
def test_the_study_has_the_steps_that_its_paces_ask_for(mooncake_trace: Path, agent_traces: Path) -> None:
    agents = Setup(str(agent_traces), limit=1000, objective=TTFT_TPOT, max_prompt_tokens=65_536)
    works = {mooncake_trace.stem: replace(agents, trace=str(mooncake_trace), max_prompt_tokens=20_480)}
    works[agent_traces.stem] = agents
    assert {
        name: tuple(paced_steps([replace(work, tpot_s=tpot_s)])[USUAL] for tpot_s in PACES_S)
        for name, work in works.items()
    } == SMALL_STEPS
