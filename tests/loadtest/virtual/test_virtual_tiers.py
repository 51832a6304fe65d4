"""A tier behind each instance's pool in virtual time: what gateways hear of it, and what they make of that."""

import random
from dataclasses import replace

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler.config import SchedulerConfig

SHARE = 0.2
PROFILE = EngineProfile(
    block_size=512,
    kv_tokens=40_000,
    offload_tokens=400_000,
    max_model_len=16_000,
    prefill_s_per_token=0.0002,
    offload_s_per_token=0.0002 * SHARE,
)


def returning(prompts: int = 30, rounds: int = 6, gap_s: float = 0.6) -> Workload:
    """Prompts of 16 blocks that come again and again, more than all pools hold together."""
    rng = random.Random(7)
    found = []
    for turn in range(rounds):
        order = list(range(prompts))
        rng.shuffle(order)
        for place, which in enumerate(order):
            blocks = tuple(1000 * which + i for i in range(16))
            found.append(WorkRequest((turn * prompts + place) * gap_s, 16 * 512 + 60, 4, blocks, session=which))
    return Workload("returning", found)


def run(workload: Workload, **values) -> tuple[VirtualCluster, ClusterRun]:
    config = SchedulerConfig(shared_media=("cpu",) if values.get("shared_cache") else ())
    capacity = truthful_capacity(PROFILE)
    if values.get("kv_events") != "blocks":
        capacity = replace(capacity, cache_tokens=PROFILE.kv_tokens)
    specs = [InstanceSpec(f"i{number}", PROFILE, capacity) for number in range(3)]
    cluster = VirtualCluster(workload, ClusterSettings(config, specs, network_s=0.001, **values))
    return cluster, cluster.run()


def cached(done: ClusterRun) -> int:
    return sum(outcome.cached_tokens for outcome in done.outcomes)


def computed(done: ClusterRun) -> int:
    return sum(done.computed_tokens.values())


@pytest.mark.parametrize("gateways", [1, 2])
def test_gateways_know_what_each_engine_has_in_its_tier_and_learn_what_it_costs(gateways: int) -> None:
    cluster, done = run(returning(), kv_events="tiers", gateways=gateways)
    assert all(outcome.ok for outcome in done.outcomes)
    for core in cluster.cores:
        core.check()
        for instance_id, view in core.instances.items():
            engine = cluster._instances._servers[instance_id].engine
            late = [event.block_hashes[0] for event in engine.take_events()]
            assert set(late) >= view.cache.slow.keys() ^ engine.pool._offloaded.keys()
    assert cluster.cores[0].instances["i0"].tiers.shares[0] == pytest.approx(SHARE, rel=0.3)


def test_where_a_prompt_lies_in_a_tier_is_worth_knowing() -> None:
    _, told = run(returning(), kv_events="tiers")
    _, untold = run(returning())
    assert cached(told) > 1.3 * cached(untold)
    assert computed(told) < 0.7 * computed(untold)


def test_told_without_tiers_all_of_it_looks_as_if_it_were_in_the_pool() -> None:
    cluster, done = run(returning(), kv_events="blocks")
    assert all(outcome.ok for outcome in done.outcomes)
    views = cluster.cores[0].instances.values()
    assert all(not view.tiers.seen and not view.cache.slow for view in views)
    assert sum(len(view.cache) for view in views) > 3 * PROFILE.kv_tokens // 512


def test_what_all_share_is_loaded_wherever_there_is_least_to_do() -> None:
    cluster, done = run(returning(), kv_events="tiers", shared_cache=True)
    assert all(outcome.ok for outcome in done.outcomes)
    shared = cluster.cores[0].instances["i0"].tiers.shared[""]
    assert len(shared) == 30 * 16
    assert computed(done) < 1.1 * 30 * (16 * 512 + 60)
    homes = {}
    for request, outcome in zip(cluster.workload.requests, done.outcomes, strict=True):
        homes.setdefault(request.session, set()).add(outcome.instance_id)
    assert sum(len(instances) > 1 for instances in homes.values()) > 5


def test_two_runs_are_equal() -> None:
    first, second = (run(returning(rounds=3), kv_events="tiers")[1] for _ in range(2))
    assert first.outcomes == second.outcomes


def test_a_study_says_what_it_was_of() -> None:
    setup = Setup("synth:hot", limit=60, warmup=10, cpu_cache_tokens=100_000, cpu_cache_shared=True, kv_events="tiers")
    row = simulate(setup, Contender("dualmap"), 4.0)
    assert row.attainment > 0
    assert "100000 tokens in shared CPU tiers at 434783/s, KV events: tiers" in row.setup
    with pytest.raises(ValueError, match="no CPU tier to share"):
        simulate(replace(setup, cpu_cache_tokens=0), Contender("dualmap"), 4.0)
