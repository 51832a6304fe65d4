"""Scaling in virtual time: instances come after their start, leave without harm, and cost what they were there."""

from dataclasses import replace

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.role import Role

PROFILE = EngineProfile(prefill_s_per_token=0.001)
START_S = 7.0
SCALING = ScalingConfig(1, 4, up_window_s=5, down_window_s=20, cool_down_s=10)


def requests(*spans: tuple[float, float, float], tokens: int = 500) -> Workload:
    """From, to, and how many a second; half a second of work each."""
    times = [since + i / rate for since, until, rate in spans for i in range(round((until - since) * rate))]
    return Workload("made", [WorkRequest(at, tokens, 4, (i,), session=i) for i, at in enumerate(sorted(times))])


def run(workload: Workload, scaling: ScalingConfig | None = SCALING, count: int = 4, **settings):
    specs = [InstanceSpec(f"i{number}", PROFILE) for number in range(count)]
    config = SchedulerConfig(cold_start_timeout_s=60.0)
    made = ClusterSettings(config, specs, scaling=scaling, start_s=START_S, **settings)
    return VirtualCluster(workload, made).run()


BURST = requests((0, 20, 0.5), (20, 60, 5), (60, 160, 0.2))


def test_a_burst_brings_instances_after_their_start_and_quiet_takes_them_away():
    done = run(BURST)
    assert all(outcome.ok for outcome in done.outcomes)
    there = {round(at): (ready, all_there) for at, ready, all_there in done.timeline}
    assert there[15] == (1, 1)
    first = next(at for at, _ in done.plans)
    assert there[round(first) + round(START_S) - 1][0] == 1
    assert there[round(first) + round(START_S) + 1][0] > 1
    assert max(all_there for _, all_there in there.values()) > 2
    assert there[max(there)][1] == 1
    reasons = [reason for _, reason in done.plans]
    assert any("wanted in the last 20 s" in reason for reason in reasons)


def test_instances_count_from_the_moment_they_are_started():
    done = run(BURST)
    assert done.instance_s == sum(all_there for _, _, all_there in done.timeline)
    fixed = run(BURST, scaling=None, count=2)
    assert fixed.instance_s == pytest.approx(2 * fixed.duration_s)


def test_the_same_run_gives_the_same_plans():
    assert run(BURST).plans == run(BURST).plans


def test_several_gateways_are_scaled_by_all_they_have_together():
    done = run(BURST, gateways=3)
    assert all(outcome.ok for outcome in done.outcomes)
    assert max(all_there for _, _, all_there in done.timeline) > 2


def test_a_plan_never_exceeds_the_most():
    done = run(requests((0, 40, 20)), scaling=replace(SCALING, max_replicas=3))
    assert max(all_there for _, _, all_there in done.timeline) == 3


def test_an_instance_that_leaves_drains_first():
    workload = requests((0, 30, 3))
    done = run(workload, scaling=None, count=2, changes=[Change(9.5, "leave", "i0")])
    assert all(outcome.ok and outcome.attempts == 1 for outcome in done.outcomes)
    assert {outcome.instance_id for outcome in done.outcomes if outcome.arrived_s > 9.5} == {"i1"}
    assert {outcome.instance_id for outcome in done.outcomes if outcome.arrived_s < 8.0} == {"i0", "i1"}
    last_s = max(outcome.finished_s for outcome in done.outcomes if outcome.instance_id == "i0")
    assert 9.5 < last_s < done.instance_s - done.duration_s < last_s + 0.2


@pytest.mark.parametrize("gateways", [1, 2])
def test_a_pool_at_zero_comes_for_the_first_request_and_goes_when_nothing_was_asked_for(gateways: int):
    scaling = replace(SCALING, min_replicas=0, scale_to_zero_after_s=15.0)
    done = run(requests((10, 12, 2), (80, 82, 2), (120, 121, 1)), scaling=scaling, gateways=gateways)
    assert all(outcome.ok for outcome in done.outcomes)
    waits = [
        outcome.first_token_s - outcome.arrived_s for outcome in done.outcomes if outcome.arrived_s in (10.0, 80.0)
    ]
    assert all(START_S <= wait <= START_S + 2.5 for wait in waits), waits
    there = {round(at): all_there for at, _, all_there in done.timeline}
    assert [there[at] for at in (5, 15, 60, 85, 115)] == [0, 1, 0, 1, 0]
    assert max(there.values()) == 1, "that the first ones came late asks for no second instance"
    assert done.instance_s < 0.6 * done.duration_s


def roles(prefill: int, decode: int) -> list[InstanceSpec]:
    """As many of each role as there can be."""
    numbers = {Role.PREFILL: prefill, Role.DECODE: decode}
    return [InstanceSpec(f"{role}-{n}", PROFILE, role=role) for role, count in numbers.items() for n in range(count)]


def run_roles(workload: Workload, scaling: ScalingConfig, at_first: tuple[int, int]):
    numbers = dict(zip((Role.PREFILL, Role.DECODE), at_first, strict=True))
    # A number, so that who decodes leaves prompts to who prefills, however far behind these are.
    config = SchedulerConfig(cold_start_timeout_s=60.0, min_prefill_leg_tokens=512)
    made = ClusterSettings(config, roles(3, 3), scaling=scaling, at_first=numbers, start_s=START_S)
    return VirtualCluster(workload, made).run()


BOUNDS = RoleBounds(1, 3)
NEW_PROMPTS = requests((0, 30, 0.2), (30, 90, 2.0), (90, 200, 0.2), tokens=1500)


def test_each_role_is_scaled_by_its_own_load():
    done = run_roles(NEW_PROMPTS, replace(SCALING, max_replicas=1, prefill=BOUNDS, decode=BOUNDS), (1, 1))
    assert all(outcome.ok for outcome in done.outcomes)
    assert {outcome.instance_id.split("-")[0] for outcome in done.outcomes} == {"decode"}
    reasons = [reason for _, reason in done.plans]
    assert reasons
    assert all(reason.startswith("prefill: prefill load") for reason in reasons)
    assert max(there for _, _, there in done.timeline) == 4
    assert done.timeline[-1][2] == 2


def test_instances_change_to_the_role_that_needs_them_and_back_and_no_answer_is_lost():
    changing = replace(SCALING, max_replicas=1, prefill=BOUNDS, decode=BOUNDS, change_roles=True)
    done = run_roles(NEW_PROMPTS, changing, (1, 3))
    assert all(outcome.ok and outcome.attempts == 2 for outcome in done.outcomes)
    acts = [(reason.partition(":")[0], "one goes to prefill" in reason) for _, reason in done.plans]
    assert acts == [("decode", True), ("prefill", False)] * 2, "one drains, and another starts"
    assert max(there for _, _, there in done.timeline) == 4, "one starts when the other is gone"
