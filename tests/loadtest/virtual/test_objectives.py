"""What counts as within an objective, and what a simulated run reports of it."""

from dataclasses import replace
from functools import partial
from math import nan
from typing import Any

import pytest

from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.loadtest.study.simulation import Contender, cluster_settings, simulate
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import RequestOutcome
from dualmap.loadtest.virtual.models import MODELS
from dualmap.loadtest.virtual.objectives import OBJECTIVES, Limits, Promises, alone_s, token_goodput
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
from dualmap.scheduler.events import RequestArrived

FULL = MODELS["full"].profile
ROUND = EngineProfile(
    max_num_batched_tokens=1000,
    max_num_seqs=16,
    prefill_s_per_token=0.001,
    step_base_s=0.01,
    decode_s_per_seq=0.0,
    decode_s_per_context_token=0.0,
)


@pytest.mark.parametrize("profile", [FULL, MODELS["prefill-only"].profile, ROUND, replace(FULL, step_overhead_s=0.003)])
@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (700, 1), (8192, 2), (8193, 40), (30_000, 513)])
def test_the_formula_is_what_an_idle_engine_takes(profile: EngineProfile, prompt: int, output: int) -> None:
    engine = Engine(profile)
    engine.add(EngineRequest("only", (), prompt, output), 0.0)
    now = 0.0
    while (ends := engine.start_step(now)) is not None:
        now = ends
        engine.finish_step(now)
    assert alone_s(profile, prompt, output) == pytest.approx(now)


def test_the_way_to_the_engine_is_part_of_what_a_request_takes_alone() -> None:
    assert alone_s(replace(FULL, api_s=0.2), 100, 5) == pytest.approx(alone_s(FULL, 100, 5) + 0.2)


PROMISES = Promises(slo_s=5.0, tpot_s=0.1, profile=ROUND)


@pytest.mark.parametrize(
    ("objective", "prompt", "output", "limits"),
    [
        ("ttft", 4000, 11, Limits(5.0)),
        ("ttft+tpot", 4000, 11, Limits(5.0, 0.1)),
        ("itl+e2e", 4000, 11, Limits(tpot_s=0.1, e2e_s=3.5 * (4.0 + 10 * 0.01))),
        ("ttft-by-length", 4000, 11, Limits(1.0 + 4 * 0.0625)),
    ],
)
def test_limits_are_those_of_the_definition(objective: str, prompt: int, output: int, limits: Limits) -> None:
    assert PROMISES.limits(objective, prompt, output) == pytest.approx(limits)


def test_an_objective_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no objective 'speed'.*ttft\+tpot"):
        PROMISES.limits("speed", 1, 1)


@pytest.mark.parametrize(
    ("limits", "first", "finished", "output", "missed", "kept"),
    [
        (Limits(5.0), 5.0, nan, 11, False, False),  # in time so far
        (Limits(5.0), 5.0, 99.0, 11, False, True),
        (Limits(5.0), 5.1, nan, 11, True, False),
        (Limits(5.0), nan, nan, 11, False, False),
        (Limits(5.0, 0.1), 1.0, 2.0, 11, False, True),
        (Limits(5.0, 0.1), 1.0, 2.1, 11, True, False),  # too slow a pace, known at the end
        (Limits(5.0, 0.1), 1.0, 2.1, 1, False, True),  # one token has no pace
        (Limits(e2e_s=8.0), 7.0, nan, 11, False, False),
        (Limits(e2e_s=8.0), 8.5, nan, 11, True, False),  # the first token alone took too long
        (Limits(e2e_s=8.0), 7.0, 8.5, 11, True, False),
        (Limits(e2e_s=8.0), 7.0, 7.5, 11, False, True),
    ],
)
def test_a_miss_is_known_as_soon_as_a_limit_is_passed(
    limits: Limits, first: float, finished: float, output: int, missed: bool, kept: bool
) -> None:
    assert limits.missed(0.0, first, finished, output) is missed
    assert limits.kept(0.0, first, finished, output) is kept


def test_a_long_request_counts_for_more_tokens() -> None:
    assert token_goodput([(300, True), (100, False)]) == 0.75
    assert token_goodput([]) is None


BUSY = Setup("synth:hot-60", limit=120, warmup=20, instances=1)


def outcomes_of(setup: Setup, qps: float) -> list[tuple[int, int, RequestOutcome]]:
    """Prompt and answer tokens and outcome of each request that counts, from a run of one's own."""
    workload = workload_of(setup, qps, 0)
    settings = cluster_settings(setup, Contender("least_loaded"), workload)
    done = VirtualCluster(workload, settings).run()
    pairs = list(zip(workload.requests, done.outcomes, strict=True))
    return [(r.prompt_tokens, r.output_tokens, o) for r, o in pairs[setup.warmup_requests :]]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_reports_what_its_outcomes_say_under_every_objective(objective: str) -> None:
    setup = replace(BUSY, objective=objective)
    row = simulate(setup, Contender("least_loaded"), 1.5)
    counted = outcomes_of(setup, 1.5)
    within = dict.fromkeys(OBJECTIVES, 0)
    tokens = 0
    for prompt, output, o in counted:
        ttft_s, e2e_s = o.first_token_s - o.arrived_s, o.finished_s - o.arrived_s
        pace_s = (e2e_s - ttft_s) / (output - 1) if output > 1 else 0.0
        kept = {
            "ttft": ttft_s <= 5.0,
            "ttft+tpot": ttft_s <= 5.0 and pace_s <= 0.1,
            "itl+e2e": pace_s <= 0.1 and e2e_s <= 3.5 * alone_s(FULL, prompt, output),
            "ttft-by-length": ttft_s <= 1.0 + 0.0625 * prompt / 1000,
        }
        for name, yes in kept.items():
            within[name] += yes
        tokens += (prompt + output) * kept[objective]
    assert 0 < within["itl+e2e"] < within["ttft"], "the load is one at which objectives differ"
    assert row.kept == pytest.approx({name: count / len(counted) for name, count in within.items()})
    assert row.attainment == row.kept[objective]
    assert row.token_goodput == pytest.approx(tokens / sum(prompt + output for prompt, output, _ in counted))
    assert row.objective == row.cell.objective == objective


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_gave_up_says_what_it_could_have_reached_at_most(objective: str) -> None:
    setup = replace(BUSY, objective=objective, limit=300)
    whole = simulate(setup, Contender("least_loaded"), 30.0)
    cut = simulate(setup, Contender("least_loaded"), 30.0, give_up_misses=0.1)
    assert whole.complete
    assert whole.attainment < 0.9
    assert not cut.complete
    assert whole.attainment <= cut.attainment < 0.9
    assert (cut.kept, cut.token_goodput) == ({}, None)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_with_few_misses_is_the_same_whether_it_may_give_up_or_not(objective: str) -> None:
    setup = replace(BUSY, objective=objective)
    whole = simulate(setup, Contender("least_loaded"), 1.0)
    watched = simulate(setup, Contender("least_loaded"), 1.0, give_up_misses=0.5)
    assert watched.complete
    assert (watched.attainment, watched.kept) == (whole.attainment, whole.kept)


def test_gateways_are_told_how_long_answers_will_be_only_where_the_cell_says_so() -> None:
    truth = [request.output_tokens for request in workload_of(BUSY, 4.0, 0).requests]
    for disturbance, expected in (("none", [0] * len(truth)), ("told-answers", truth)):
        told: list[int] = []
        simulate(replace(BUSY, disturbance=disturbance), Contender("dualmap"), 4.0, wrap=partial(Ear, told))
        assert told == expected


def test_clients_name_their_sessions_only_where_the_cell_says_so() -> None:
    sessions = [request.session + 1 for request in workload_of(BUSY, 4.0, 0).requests]
    for disturbance, expected in (("none", [0] * len(sessions)), ("named-sessions", sessions)):
        told: list[int] = []
        ear = partial(Ear, told, what="session")
        simulate(replace(BUSY, disturbance=disturbance), Contender("dualmap"), 4.0, wrap=ear)
        assert sorted(told) == sorted(expected)


class Ear:
    """A core, and what it is told of each request that comes."""

    def __init__(self, told: list[int], core: Any, what: str = "max_output_tokens") -> None:
        self.told = told
        self.core = core
        self.what = what

    def handle(self, event: Any, now: float) -> Any:
        if isinstance(event, RequestArrived):
            self.told.append(getattr(event.request, self.what))
        return self.core.handle(event, now)
