"""The cluster in virtual time, against times worked out by hand and against what must hold for every run."""

import random
from dataclasses import replace

import pytest

from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import DETECT_S, VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.shared_cache_bound import make_bound
from dualmap.scheduler.config import POLICY_NAMES, SchedulerConfig
from tests.loadtest.made import ROUND_PROFILE

NETWORK_S = 0.001


def settings(count: int, policy: str = "dualmap", **values: object) -> ClusterSettings:
    specs = [InstanceSpec(f"i{number}", ROUND_PROFILE) for number in range(count)]
    return ClusterSettings(SchedulerConfig(policy=policy), specs, network_s=NETWORK_S, **values)


def chats(count: int, gap_s: float = 0.2, seed: int = 1) -> Workload:
    """Independent requests of 1 to 8 blocks, of which a third share a first block."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        own = tuple(1000 * (number + 1) + i for i in range(rng.randint(1, 8)))
        blocks = (7, *own) if number % 3 == 0 else own
        tokens = len(blocks) * 512 + rng.randint(0, 500)
        found.append(WorkRequest(number * gap_s, tokens, rng.randint(1, 60), blocks, session=number))
    return Workload("chats", found)


def run(workload: Workload, chosen: ClusterSettings) -> ClusterRun:
    return VirtualCluster(workload, chosen).run()


def test_one_request_takes_the_time_of_its_steps_and_both_ways() -> None:
    done = run(Workload("one", [WorkRequest(1.0, 5000, 11, tuple(range(9)))]), settings(1))
    (only,) = done.outcomes
    assert only.first_token_s == pytest.approx(1.0 + 2 * NETWORK_S + 0.5)
    assert only.finished_s == pytest.approx(only.first_token_s + 10 * 0.01)
    assert (only.ok, only.instance_id, only.attempts, only.cached_tokens) == (True, "i0", 1, 0)


def test_a_second_request_reads_the_blocks_of_the_first_and_computes_the_rest() -> None:
    blocks = tuple(range(9))
    requests = [WorkRequest(0.0, 5000, 1, blocks), WorkRequest(2.0, 5000, 1, blocks, session=1)]
    done = run(Workload("two", requests), settings(1))
    assert done.outcomes[1].cached_tokens == 9 * 512
    assert done.outcomes[1].first_token_s == pytest.approx(2.0 + 2 * NETWORK_S + (5000 - 9 * 512) * 0.0001)
    assert done.computed_tokens == {"i0": 10_000 - 9 * 512}


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_two_runs_are_equal_in_every_outcome(policy: str) -> None:
    changes = [Change(5.0, "lose", "i1"), Change(12.0, "join", "i1"), Change(3.0, "slow", "i2", 3.0)]
    chosen = settings(4, policy, gateways=2, changes=changes)
    first, second = (run(chats(150, 0.1), chosen) for _ in range(2))
    assert repr(first.outcomes) == repr(second.outcomes)
    assert first.duration_s == second.duration_s


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_nothing_is_lost_with_a_lost_instance(policy: str) -> None:
    workload = chats(200, 0.05)
    done = run(workload, settings(3, policy, changes=[Change(4.0, "lose", "i0")]))
    assert all(outcome.ok for outcome in done.outcomes)
    again = [o for o in done.outcomes if o.attempts > 1]
    assert again, "the lost instance had work"
    assert all(o.instance_id != "i0" for o in again)
    assert not [o for o in done.outcomes if o.instance_id == "i0" and o.arrived_s > 4.2]


LONG = Workload("long", [WorkRequest(0.0, 5000, 300, tuple(range(9)))])


def test_a_stream_goes_on_elsewhere_with_the_tokens_it_has_as_part_of_its_prompt() -> None:
    (undisturbed,) = run(LONG, settings(2)).outcomes
    lost_s = NETWORK_S + 5000 * 0.0001 + 29 * 0.01 + 0.005  # with 30 of 300 tokens
    lost = Change(lost_s, "lose", undisturbed.instance_id)
    (only,) = run(LONG, settings(2, changes=[lost])).outcomes
    again_s = 5030 * 0.0001 + 269 * 0.01
    assert (only.ok, only.attempts, only.first_token_s) == (True, 2, undisturbed.first_token_s)
    assert only.finished_s == pytest.approx(lost_s + DETECT_S + 2 * NETWORK_S + again_s)


@pytest.mark.parametrize(("most", "whole"), [(0, False), (1, False), (2, True)])
def test_a_stream_goes_on_as_often_as_it_may(most: int, whole: bool) -> None:
    """The instance that has it is lost, and then the one on which it goes on."""
    changes: list[Change] = []
    for at_s in (1.0, 2.5):
        (only,) = run(LONG, settings(3, changes=changes)).outcomes
        changes.append(Change(at_s, "lose", only.instance_id))
    (only,) = run(LONG, settings(3, changes=changes, max_continuations=most)).outcomes
    assert only.ok == whole


def test_an_instance_that_joins_gets_load() -> None:
    done = run(chats(200, 0.05), settings(3, changes=[Change(5.0, "join", "i2")]))
    served = [o.arrived_s for o in done.outcomes if o.instance_id == "i2"]
    assert len(served) > 20
    assert done.outcomes[0].instance_id != "i2"


def test_an_instance_that_was_lost_comes_back_without_its_cache() -> None:
    blocks = tuple(range(9))
    requests = [WorkRequest(float(at), 5000, 1, blocks, session=at) for at in (0, 2, 6, 8)]
    changes = [Change(3.0, "lose", "i0"), Change(4.0, "join", "i0")]
    done = run(Workload("four", requests), settings(1, changes=changes))
    assert [o.cached_tokens for o in done.outcomes] == [0, 9 * 512, 0, 9 * 512]


def test_a_slow_instance_takes_its_factor_for_every_step() -> None:
    requests = [WorkRequest(1.0, 5000, 11, tuple(range(9)))]
    done = run(Workload("one", requests), settings(1, changes=[Change(0.0, "slow", "i0", 2.0)]))
    assert done.outcomes[0].finished_s == pytest.approx(1.0 + 2 * NETWORK_S + 2 * 0.6)


def test_requests_avoid_an_instance_that_proves_slow() -> None:
    done = run(chats(300, 0.06), settings(2, changes=[Change(0.0, "slow", "i0", 4.0)]))
    later = [o.instance_id for o in done.outcomes[100:]]
    assert later.count("i0") < later.count("i1")


def test_gateways_book_the_load_that_others_report() -> None:
    """Long prompts go to one gateway, and short ones to the other, which keeps off where the long ones are."""
    requests = []
    for number in range(60):
        size = 30 if number % 2 == 0 else 1
        blocks = tuple(1000 * (number + 1) + i for i in range(size))
        requests.append(WorkRequest(number * 0.9, size * 512, 1, blocks, session=number))
    told = settings(2, gateways=2, digest_s=0.05)
    deaf = replace(told, digest_s=1e6)
    waits = {}
    for name, chosen in (("told", told), ("deaf", deaf)):
        outcomes = run(Workload("mixed", requests), chosen).outcomes
        waits[name] = sum(o.first_token_s - o.arrived_s for o in outcomes[1::2])
    assert waits["told"] < waits["deaf"]


@pytest.mark.parametrize("gateways", [2, 4])
def test_gateways_that_get_requests_in_the_same_moment_share_the_idle_instances_out(gateways: int) -> None:
    requests = [
        WorkRequest(1.03 + 5.0 * (n // 4), 9000, 1, tuple(range(100 * n, 100 * n + 17)), session=n) for n in range(80)
    ]
    done = run(Workload("bursts", requests), settings(4, gateways=gateways))
    for first in range(0, 80, 4):
        assert len({o.instance_id for o in done.outcomes[first : first + 4]}) == 4
    assert max(o.first_token_s - o.arrived_s for o in done.outcomes) < 1.1 * 9000 * ROUND_PROFILE.prefill_s_per_token


def test_news_among_gateways_can_be_late() -> None:
    chosen = settings(2, "min_ttft", gateways=2, digest_s=0.05)
    on_time, late = (run(chats(100, 0.05), c) for c in (chosen, replace(chosen, digest_delay_s=5.0)))
    assert repr(on_time.outcomes) != repr(late.outcomes)


def test_a_follow_up_starts_its_think_time_after_the_end_of_the_turn_before() -> None:
    requests = [
        WorkRequest(0.0, 1000, 5, (1,)),
        WorkRequest(0.1, 2000, 5, (1, 2, 3), after=0, think_s=3.0),
    ]
    first, second = run(Workload("chat", requests), settings(2)).outcomes
    assert second.arrived_s == pytest.approx(first.finished_s + 3.0)


def test_give_up_ends_the_run() -> None:
    cluster = VirtualCluster(chats(100), settings(2))
    seen: list[int] = []
    done = cluster.run(give_up=lambda index, ended: seen.append(index) or len(seen) == 10)
    assert done.stopped
    assert len(seen) == 10
    assert not all(o.ok for o in done.outcomes)


def test_instances_with_a_shared_cache_read_what_the_others_computed() -> None:
    blocks = tuple(range(20))
    requests = [WorkRequest(at, 20 * 512 + 10, 1, blocks, session=i) for i, at in enumerate((0.0, 2.0, 2.0, 2.0))]
    chosen = settings(3, shared_cache=True)
    cluster = VirtualCluster(Workload("same", requests), chosen, make_core=make_bound)
    done = cluster.run()
    assert [o.cached_tokens for o in done.outcomes] == [0, *[20 * 512] * 3]
    assert len({o.instance_id for o in done.outcomes}) > 1
    assert all(o.ok for o in done.outcomes)


def test_the_bound_computes_no_block_twice() -> None:
    workload = chats(120, 0.05)
    cluster = VirtualCluster(workload, settings(4, shared_cache=True), make_core=make_bound)
    done = cluster.run()
    assert all(o.ok for o in done.outcomes)
    shared = sum(1 for r in workload.requests if r.blocks[0] == 7) - 1
    computed = sum(r.prompt_tokens for r in workload.requests) - sum(done.computed_tokens.values())
    assert computed >= 0.8 * shared * 512
