"""Instances that were not started here, and come and go: pods of Kubernetes, addresses of a name, and what a changed
configuration names."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from time import monotonic
from typing import Protocol

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import PlacedSpec, external_spec
from dualmap.router.config.pool_settings import ExternalInstance, KubernetesDiscovery
from dualmap.router.deployment.name_watch import NameWatch, Resolve, resolve
from dualmap.router.deployment.pod_table import NO_LABELS, PodLabels
from dualmap.router.deployment.watched_instances import WatchedInstances
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState
from dualmap.scheduler.role import Role

DRAIN_DEADLINE_S = 600.0  # of one that is named no more but runs on
GETS_NOTHING = "its label says prefill, and a picker's proxy sends each request once, to a server that answers"
SUCCESSION_S = 10.0  # for which one that is named no more still serves while those that came instead are not ready


class Watch(Protocol):
    """See PodWatch."""

    @property
    def found(self) -> Mapping[str, bool] | None: ...

    @property
    def labels(self) -> Mapping[str, PodLabels]: ...

    def stop(self) -> None: ...


class ExternalInstances:
    """config: names those that run anywhere; may be replaced. roles: in place of the ones that instances are named
    with; may be replaced. ids: of those that are to be watched, and what each is.
    watched: those that are. say: is told who comes and goes."""

    def __init__(
        self,
        config: DualMapConfig,
        watched: WatchedInstances,
        say: Callable[[str], None],
        fleet_state: Callable[[], FleetState],
        resolve: Resolve = resolve,
    ) -> None:
        """fleet_state: asks Fleet, raises CallError. resolve: a name's addresses, raises OSError."""
        self.config = config
        self.roles: Mapping[str, Role] = {}
        self.ids: dict[str, PlacedSpec] = {}
        self._watched = watched
        self._say = say
        self._fleet_state = fleet_state
        self._leaving: dict[str, float] = {}  # since when
        self._coming: dict[str, float] = {}  # since when, of those that are not ready yet
        self._ending: set[str] = set()  # of these ids, pods that were told to end
        self._watches: dict[str, tuple[KubernetesDiscovery, Watch]] = {}  # by pool
        self._names = NameWatch(resolve)
        self._split: set[str] = set()  # names that had several addresses
        self._followed: DualMapConfig | None = None  # whose names are followed
        self._seen: object = None  # what was found when those that are named were looked for last
        self._seen_config: DualMapConfig | None = None
        self._last_named: tuple[dict[str, PlacedSpec], set[str]] = ({}, set())
        self._watch()
        self.ids, _ = self._named()
        for placed in self.ids.values():
            self._use(placed)

    def stop(self) -> None:
        self._names.stop()
        for _, watch in self._watches.values():
            watch.stop()

    def round(self) -> None:
        """Add those that came, drain those that leave, let go of those that are gone. Raises CallError."""
        self._watch()
        self._watched.step()
        all_named, ending = self._named()
        named = {i: placed for i, placed in all_named.items() if not self._is_another(placed)}
        self._ending = (self._ending | ending) & self.ids.keys() - named.keys()
        for instance_id, placed in named.items():
            if instance_id not in self.ids:
                if instance_id not in self._watched:  # else one of that name has not quite left
                    self.ids[instance_id] = placed
                    self._coming[instance_id] = monotonic()
                    self._say(f"{instance_id} is known")
                    self._use(placed)
            elif self._leaving.pop(instance_id, None) is not None:
                self._watched.tell(instance_id, "undrain")
        unheard = {pool_name for pool_name, (_, watch) in self._watches.items() if watch.found is None}
        unnamed = [i for i, placed in self.ids.items() if i not in named and placed.spec.pool not in unheard]
        waiting = self._waiting_pools() if unnamed else ()
        if changing := [i for i in unnamed if i in all_named and i not in self._leaving]:
            held = self._held(changing, all_named, self._fleet_state())
            unnamed = [i for i in unnamed if i not in held]
        for instance_id in unnamed:
            self._leaving.setdefault(instance_id, monotonic())
            if instance_id in ending or self.ids[instance_id].spec.pool not in waiting:
                self._watched.tell(instance_id, "drain")  # in each round: a restarted Watcher has forgotten it
        state = self._fleet_state() if unnamed else None
        for instance_id in unnamed:
            # A pod that vanishes without having been told to end may run on, with other labels.
            gone = instance_id in self._ending and instance_id not in ending
            drained = state is not None and _is_drained(state, instance_id)
            if gone or drained or monotonic() - self._leaving[instance_id] > DRAIN_DEADLINE_S:
                del self.ids[instance_id], self._leaving[instance_id]
                self._watched.remove(instance_id)

    def may_know(self, member: Member) -> bool:
        """Whether it is named, or leaves, or whoever names its pool's instances has not been heard yet."""
        unheard = any(watch.found is None for _, watch in self._watches.values())
        return unheard or member.instance_id in self.ids or member.instance_id in self._watched

    def _use(self, placed: PlacedSpec) -> None:
        self._watched.add(placed.spec)
        if self.config.gateway.picker is not None and placed.spec.role is Role.PREFILL:
            self._say(f"{placed.spec.instance_id} gets no requests: {GETS_NOTHING}")

    def _held(self, changing: Sequence[str], named: Mapping[str, PlacedSpec], state: FleetState) -> set[str]:
        """Of those that are to come again with another role or revision, those that serve on for now, so that somebody
        answers meanwhile: half of the instances of a pool that answer go at a time, the only one once another has
        come. named: what all will be."""
        if not state.settled:
            return set(changing)
        ready = {member.instance_id for member in state.members if member.state is MemberState.READY}
        held: set[str] = set()
        for pool in {self.ids[i].spec.pool for i in changing}:
            stay = [i for i, placed in named.items() if placed.spec.pool == pool]
            there = [i for i in stay if i in self.ids and i not in self._leaving and i not in self._coming]
            serving = [i for i in there if i in ready and _answers(self.ids[i])]
            due = sorted((i for i in serving if i in changing), key=lambda i: not _answers(named[i]))
            if len(there) < len(stay):
                held.update(due)
            elif len(serving) > 1:
                held.update(due[len(serving) // 2 :])
            elif any(i in ready and i not in serving and _answers(named[i]) for i in stay):
                held.update(due)
        return held

    def _waiting_pools(self) -> set[str]:
        """Those to which instances came that are not ready yet, but may be soon. Raises CallError."""
        begun = monotonic() - SUCCESSION_S
        self._coming = {i: since for i, since in self._coming.items() if i in self.ids and since > begun}
        if self._coming:
            for member in self._fleet_state().members:
                if member.state is MemberState.READY:
                    self._coming.pop(member.instance_id, None)
        return {self.ids[instance_id].spec.pool for instance_id in self._coming}

    def _watch(self) -> None:
        """As configured by now."""
        wanted = {name: p.discovery.kubernetes for name, p in self.config.all_pools().items() if p.discovery}
        for pool_name, (settings, watch) in list(self._watches.items()):
            if wanted.get(pool_name) != settings:
                watch.stop()
                del self._watches[pool_name]
        for pool_name, settings in wanted.items():
            if pool_name not in self._watches:
                self._watches[pool_name] = settings, watch_pods(settings, self._say)
        if self._followed is not self.config:
            self._followed = self.config
            self._names.follow({i.endpoint.host for i in self._instances() if i.follows_name})

    def _instances(self) -> Iterator[ExternalInstance]:
        for pool in self.config.all_pools().values():
            for instance in pool.instances:
                yield from instance.members

    def _named(self) -> tuple[dict[str, PlacedSpec], set[str]]:
        """Those that shall get requests, and pods that are about to end: looked for again when something has changed,
        for there may be a thousand, and rounds are many."""
        pods = {name: (watch.found and dict(watch.found), watch.labels) for name, (_, watch) in self._watches.items()}
        seen = (self._names.found, pods, self.roles)
        if self._seen != seen or self._seen_config is not self.config:
            self._seen, self._seen_config = seen, self.config
            self._last_named = self._look()
        return self._last_named

    def _look(self) -> tuple[dict[str, PlacedSpec], set[str]]:
        named: dict[str, PlacedSpec] = {}
        ending: set[str] = set()
        for pool_name, pool in self.config.all_pools().items():
            members = chain.from_iterable(instance.members for instance in pool.instances)
            for instance in chain.from_iterable(map(self._at_addresses, members)):
                named.setdefault(instance.id, external_spec(self.config, pool_name, instance))
        for pool_name, (settings, watch) in self._watches.items():
            capacity = settings.capacity
            capacity = replace(capacity, weight=1.0 if capacity.weight is None else capacity.weight)
            for address, leaves in (watch.found or {}).items():
                role, revision = watch.labels.get(address, NO_LABELS)
                ranks = f"@0..{settings.data_parallel_size - 1}" if settings.data_parallel_size > 1 else ""
                url = f"http://{address}{ranks}"
                pod = ExternalInstance(url=url, capacity=capacity, probe=settings.probe, role=role, revision=revision)
                for member in pod.members:
                    if leaves:
                        ending.add(member.id)
                    else:
                        named[member.id] = external_spec(self.config, pool_name, member)
        for instance_id in self.roles.keys() & named.keys():
            placed = named[instance_id]
            named[instance_id] = replace(placed, spec=replace(placed.spec, role=self.roles[instance_id]))
        return named, ending

    def _at_addresses(self, instance: ExternalInstance) -> Sequence[ExternalInstance]:
        """One for each address of its name, where the name has several; else itself."""
        host = instance.endpoint.host
        addresses = self._names.found.get(host, frozenset()) if instance.follows_name else frozenset()
        if len(addresses) > 1 or instance.resolve:
            self._split.add(host)
        if not addresses or host not in self._split:
            return (instance,)
        return [instance.at(address) for address in sorted(addresses)]

    def _is_another(self, placed: PlacedSpec) -> bool:
        """Whether one of its name has to leave first: it does already, and other settings had it, or it is there for
        other requests than this one will be."""
        instance_id = placed.spec.instance_id
        known = self.ids.get(instance_id)
        if known is None:
            return False
        if (known.spec.role, known.spec.revision) != (placed.spec.role, placed.spec.revision):
            return True
        return instance_id in self._leaving and not _alike(known, placed)


def watch_pods(settings: KubernetesDiscovery, say: Callable[[str], None]) -> Watch:
    """Needs dualmap[kubernetes]; raises ImportError without it."""
    watch = importlib.import_module("dualmap.router.deployment.kubernetes_discovery").PodWatch(settings, say)
    watch.start()
    found: Watch = watch
    return found


def _answers(placed: PlacedSpec) -> bool:
    return placed.spec.role is not Role.PREFILL


def _is_drained(state: FleetState, instance_id: str) -> bool:
    """Whether it is known to drain, or to be lost, and no gateway has a request there; or it has never answered."""
    member = next((member for member in state.members if member.instance_id == instance_id), None)
    if member is None:
        return state.settled
    return member.state is not MemberState.READY and state.is_drained(instance_id)


def _alike(one: PlacedSpec, other: PlacedSpec) -> bool:
    """But for the share of the rings, which depends on the pool's other instances."""
    a, b = (replace(placed.spec, capacity=replace(placed.spec.capacity, weight=None)) for placed in (one, other))
    return a == b
