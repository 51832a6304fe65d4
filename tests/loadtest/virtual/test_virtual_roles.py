"""The cluster in virtual time with instances that prefill for others: against times worked out by hand, and against
what must hold for every run."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.scheduler.commands import Command, Dispatch
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.role import Role
from tests.loadtest.made import ROUND_PROFILE

NETWORK_S = 0.001
PROFILE = replace(ROUND_PROFILE, transfer_s_per_token=0.00001, transfer_latency_s=0.02)


def settings(prefill: int, decode: int, **values: object) -> ClusterSettings:
    specs = [InstanceSpec(f"p{number}", PROFILE, role=Role.PREFILL) for number in range(prefill)]
    specs += [InstanceSpec(f"d{number}", PROFILE, role=Role.DECODE) for number in range(decode)]
    return ClusterSettings(SchedulerConfig(min_prefill_leg_tokens=512), specs, network_s=NETWORK_S, **values)


def chats(count: int, gap_s: float = 0.1, seed: int = 1) -> Workload:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        blocks = tuple(1000 * (number + 1) + i for i in range(rng.randint(1, 8)))
        found.append(WorkRequest(number * gap_s, len(blocks) * 512 + 100, rng.randint(1, 60), blocks, session=number))
    return Workload("chats", found)


def run(workload: Workload, chosen: ClusterSettings) -> ClusterRun:
    return VirtualCluster(workload, chosen).run()


def test_a_request_takes_the_time_of_both_legs_and_of_the_transfer() -> None:
    done = run(Workload("one", [WorkRequest(1.0, 5000, 11, tuple(range(9)))]), settings(1, 1))
    (only,) = done.outcomes
    prefill_s, transfer_s, step_s = 0.5, 5000 * 0.00001 + 0.02, 0.01
    assert only.first_token_s == pytest.approx(1.0 + 4 * NETWORK_S + prefill_s + transfer_s + step_s)
    assert only.finished_s == pytest.approx(only.first_token_s + 10 * step_s)
    assert (only.ok, only.instance_id, only.attempts, only.cached_tokens) == (True, "d0", 2, 0)
    assert done.computed_tokens == {"p0": 5000, "d0": 0}


def test_what_the_prefill_instance_has_cached_counts() -> None:
    blocks = tuple(range(9))
    requests = [WorkRequest(0.0, 5000, 1, blocks), WorkRequest(2.0, 9000, 1, (*blocks, *range(90, 98)), session=1)]
    done = run(Workload("two", requests), settings(1, 1))
    assert done.outcomes[1].cached_tokens == 9 * 512


@pytest.mark.parametrize("changes", [[], [Change(3.0, "lose", "p0")], [Change(3.0, "lose", "d0")]])
def test_every_request_is_answered_once_whatever_dies(changes: list[Change]) -> None:
    workload = chats(80)
    done = run(workload, settings(2, 2, changes=changes))
    assert all(outcome.ok for outcome in done.outcomes)
    assert all(outcome.instance_id.startswith("d") for outcome in done.outcomes)
    again = run(chats(80), settings(2, 2, changes=changes))
    assert again.outcomes == done.outcomes


def test_nothing_is_lent_at_the_end() -> None:
    cluster = VirtualCluster(chats(40), settings(1, 3))
    cluster.run()
    servers = cluster._instances._servers.values()
    assert [len(server.engine.leases) for server in servers] == [0] * 4
    for core in cluster.cores:
        core.check()


def test_without_instances_that_prefill_the_others_do_all() -> None:
    done = run(chats(10), settings(0, 2))
    assert all(outcome.ok and outcome.attempts == 1 for outcome in done.outcomes)


def test_a_rollout_of_both_roles_loses_nothing_and_pairs_no_two_revisions() -> None:
    kinds = [(role, revision) for revision in ("old", "new") for role in (Role.PREFILL, Role.DECODE)]
    specs = [InstanceSpec(f"{role}-{revision}", PROFILE, role=role, revision=revision) for role, revision in kinds]
    changes = [
        Change(2.0, "join", "prefill-new"),
        Change(5.0, "join", "decode-new"),
        Change(8.0, "leave", "prefill-old"),
        Change(11.0, "leave", "decode-old"),
    ]
    dispatched: dict[str, list[str]] = {}

    class Noted(VirtualCluster):
        def _apply(self, gateway: int, command: Command) -> None:
            if isinstance(command, Dispatch):
                dispatched.setdefault(command.request_id, []).append(command.instance_id)
            super()._apply(gateway, command)

    config = SchedulerConfig(min_prefill_leg_tokens=512)
    done = Noted(chats(160), ClusterSettings(config, specs, network_s=NETWORK_S, changes=changes)).run()
    assert all(outcome.ok for outcome in done.outcomes)
    pairs = Counter(tuple(instance_ids) for instance_ids in dispatched.values())
    assert pairs.keys() <= {
        ("prefill-old", "decode-old"),
        ("prefill-new", "decode-new"),
        ("decode-new",),
        ("decode-old",),
    }
    assert min(pairs["prefill-old", "decode-old"], pairs["prefill-new", "decode-new"]) > 20
