"""What a ninth instance changes that joins in mid-run and leaves again: the candidates of keys, what is found cached,
and how long first tokens take; for two rings, for one, and for a modulo map."""

import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from dualmap.loadtest.study.simulation import Contender, cluster_settings
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import Change, InstanceSpec
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.policies.dualmap import DualMap

KEYS = 10_000
MINUTE_S = 60.0
RINGS_ALONE = (("escape", False), ("find_holders", False))  # the map is all that finds a prefix


class ModuloMap:
    """Two hashes of the key modulo the number of instances, in the place of the rings."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, instance_id: str, weight: float = 1.0) -> None:
        self._ids = sorted({*self._ids, instance_id})

    def remove(self, instance_id: str) -> None:
        self._ids.remove(instance_id)

    def candidates(self, key: int, avoid: Set[str] = frozenset(), unable: Set[str] = frozenset()) -> tuple[str, ...]:
        ids = [i for i in self._ids if i not in avoid and i not in unable]
        if not ids:
            return ()
        first, second = key % len(ids), (key >> 32) % len(ids)
        if first == second:
            second = (first + 1) % len(ids)
        return tuple(dict.fromkeys((ids[first], ids[second])))


@dataclass(frozen=True, slots=True)
class Map:
    """How keys find their candidates. make: an empty one."""

    name: str
    make: Callable[[], Any]
    overrides: tuple[tuple[str, Any], ...]

    def core(self, config: SchedulerConfig) -> Scheduler:
        scheduler = Scheduler(config)
        assert isinstance(scheduler.policy, DualMap)
        scheduler.policy.rings = self.make()
        return scheduler


NODES = SchedulerConfig().virtual_nodes
MAPS = (
    Map("two rings, as dualmap runs", lambda: DualRing(NODES), ()),
    Map("two rings alone", lambda: DualRing(NODES), RINGS_ALONE),
    Map("one ring alone", lambda: DualRing(NODES, dual=False), RINGS_ALONE),
    Map("modulo map alone", ModuloMap, RINGS_ALONE),
)


def changed_share(ids: Sequence[str], more: str, make: Callable[[], Any]) -> float:
    """Of the keys, those whose candidates differ with one more instance; the same share comes back when it leaves."""
    before, after = make(), make()
    for instance_id in ids:
        before.add(instance_id)
        after.add(instance_id)
    after.add(more)
    rng = random.Random(1)
    keys = [rng.getrandbits(64) for _ in range(KEYS)]
    return sum(set(before.candidates(key)) != set(after.candidates(key)) for key in keys) / KEYS


def ideal_share(instances: int, candidates: int) -> float:
    """Where the newcomer gets its fair part of each choice and nothing else moves."""
    return 1.0 - (1.0 - 1.0 / (instances + 1)) ** candidates


@dataclass(frozen=True, slots=True)
class Resized:
    """hit_rates, p90s: of the minute before it joined, the one after, the one before it left, and the one after."""

    name: str
    changed: float
    ideal: float
    hit_rates: tuple[float, ...]
    p90s: tuple[float, ...]
    failed: int


def resize_runs(setup: Setup, qps: float, seed: int = 1) -> list[Resized]:
    """setup.instances there are all the time; one more comes after a third of the run and leaves after two."""
    found = []
    for kind in MAPS:
        workload = workload_of(setup, qps, seed)
        settings = cluster_settings(setup, Contender("dualmap", seed, kind.overrides), workload)
        *_, last = settings.instances
        more = InstanceSpec(f"{last.instance_id}-more", last.profile, last.capacity)
        third_s = workload.requests[-1].arrival_s / 3
        changes = (Change(third_s, "join", more.instance_id), Change(2 * third_s, "leave", more.instance_id))
        settings = replace(settings, instances=(*settings.instances, more), changes=changes)
        done = VirtualCluster(workload, settings, make_core=kind.core).run()
        ids = [spec.instance_id for spec in settings.instances[:-1]]
        minutes = [at + before for at in (third_s, 2 * third_s) for before in (-MINUTE_S, 0.0)]
        found.append(
            Resized(
                kind.name,
                changed_share(ids, more.instance_id, kind.make),
                ideal_share(len(ids), 1 if "one ring" in kind.name else 2),
                tuple(hit_rate(workload, done, at) for at in minutes),
                tuple(p90_s(done, at) for at in minutes),
                sum(not outcome.ok for outcome in done.outcomes),
            )
        )
    return found


def hit_rate(workload: Workload, done: ClusterRun, since_s: float) -> float:
    """Of the prompts that came in the minute, the share of tokens found cached."""
    came = [
        (request.prompt_tokens, outcome.cached_tokens)
        for request, outcome in zip(workload.requests, done.outcomes, strict=True)
        if since_s <= outcome.arrived_s < since_s + MINUTE_S
    ]
    return sum(cached for _, cached in came) / max(1, sum(prompt for prompt, _ in came))


def p90_s(done: ClusterRun, since_s: float) -> float:
    came = [o for o in done.outcomes if since_s <= o.arrived_s < since_s + MINUTE_S and o.ok]
    return quantile(sorted(o.first_token_s - o.arrived_s for o in came), 0.9)
