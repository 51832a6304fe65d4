"""Who waited past three objectives while others of the same size that came later began."""

from math import nan
from pathlib import Path

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.traces.hot_prefix import low_reuse
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.traces.workload_scale import at_rate
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun, RequestOutcome
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.overtaken import Overtaken, overtaken
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler import Request, SchedulerConfig

PROFILE = EngineProfile(block_size=512, prefill_s_per_token=0.001, attention_s_per_token_pair=0.0)
SLO_S = 5.0
LATE = {"sent_s": 20.0, "instance_id": "a"}


def asked(tokens: int = 1000, **told: object) -> WorkRequest:
    return WorkRequest(0.0, tokens, 1, (), told=Request("", (), tokens, **told) if told else None)


@pytest.mark.parametrize(
    ("late", "other", "found"),
    [
        ((asked(), LATE), (asked(), {"sent_s": 15.0}), True),
        ((asked(), LATE), (asked(), {"sent_s": 14.9}), False),  # before three objectives are over
        ((asked(), LATE), (asked(), {"sent_s": 20.0}), False),
        ((asked(), LATE), (asked(), {"sent_s": 15.0, "arrived_s": 0.0}), False),
        ((asked(), LATE), (asked(801), {"sent_s": 15.0}), True),
        ((asked(), LATE), (asked(799), {"sent_s": 15.0}), False),  # smaller
        ((asked(), LATE), (asked(9000), {"sent_s": 15.0}), True),
        ((asked(), LATE), (asked(9000), {"sent_s": 15.0, "cached_tokens": 8300}), False),
        ((asked(), LATE | {"cached_tokens": 300}), (asked(), {"sent_s": 15.0}), False),  # at b it would be more work
        ((asked(), LATE | {"cached_tokens": 100}), (asked(), {"sent_s": 15.0}), True),
        ((asked(), LATE | {"cached_tokens": 300}), (asked(), {"sent_s": 15.0, "instance_id": "a"}), True),
        ((asked(tenant="x"), LATE), (asked(), {"sent_s": 15.0}), False),
        ((asked(priority=1), LATE), (asked(), {"sent_s": 15.0}), False),
        ((asked(priority=1), LATE), (asked(priority=1), {"sent_s": 15.0}), True),
        ((asked(), {"sent_s": nan}), (asked(), {"sent_s": 400.0}), True),  # given up
    ],
)
def test_only_equals_that_came_later_count(late, other, found: bool) -> None:
    outcomes = [RequestOutcome(0.0, **late[1]), RequestOutcome(**{"arrived_s": 0.1, "instance_id": "b"} | other[1])]
    assert bool(overtaken([late[0], other[0]], outcomes, SLO_S, PROFILE)) is found


def test_says_by_whom_first_and_for_how_long() -> None:
    outcomes = [
        RequestOutcome(at, sent_s=sent, instance_id=i) for at, sent, i in ((0, 20, "a"), (1, 18, "b"), (2, 17, "a"))
    ]
    found = overtaken([asked(), asked(), asked()], outcomes, SLO_S, PROFILE)
    assert found == [
        Overtaken(index=0, by=2, waited_s=20, at_same_instance=True),
        Overtaken(index=1, by=2, waited_s=17, at_same_instance=False),
    ]


def run(qps: float, **config: object) -> tuple[Workload, ClusterRun]:
    """1,200 prompts that share nothing, on four instances that bear about 3.1 of them a second."""
    profile = EngineProfile(block_size=512)
    workload = at_rate(low_reuse("low-reuse", 1200), qps)
    specs = [InstanceSpec(f"i{number}", profile) for number in range(4)]
    return workload, VirtualCluster(workload, ClusterSettings(SchedulerConfig(**config), specs)).run()


@pytest.mark.parametrize("qps", [3.1, pytest.param(3.6, marks=pytest.mark.slow)])
def test_nobody_who_shares_nothing_is_overtaken_after_three_objectives(qps: float) -> None:
    workload, done = run(qps)
    assert sum(o.sent_s - o.arrived_s > 3 * SLO_S for o in done.outcomes) > 500
    assert overtaken(workload.requests, done.outcomes, SLO_S, EngineProfile(block_size=512)) == []


def test_where_instances_keep_what_waits_for_them_many_are_overtaken() -> None:
    workload, done = run(3.1, taking=False)
    assert len(overtaken(workload.requests, done.outcomes, SLO_S, EngineProfile(block_size=512))) > 100


def test_no_request_of_agents_is_lost_while_the_fleet_serves_others_that_came_later(agent_traces: Path) -> None:
    """Sessions start cold: prompts of 10 s and more wait for up to 100 s. First come, first served loses none, either;
    instances that each serve their own queue only lost seven."""
    setup = Setup(str(agent_traces), max_prompt_tokens=65_536, slo_s=20.0, limit=4000, warmup=0)
    assert simulate(setup, Contender("dualmap", seed=3), 4.75).failed == 0
