"""Scaling in virtual time: the live Scaler, and what `dualmap up` does beside it."""

from typing import Protocol

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings
from dualmap.loadtest.virtual.fleet import VirtualFleet
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.pool_scaler import PoolScaler
from dualmap.scheduler.fleet.scaler import Scaled, Wanted, WantedPool
from dualmap.scheduler.role import Role

LOOK_S = 1.0  # as in the live Autoscaler


class ScaledCluster(Protocol):
    """What is scaled, in virtual time."""

    clock: VirtualClock

    def join(self, instance_id: str) -> None: ...

    def drain(self, instance_id: str) -> None: ...

    def leave(self, instance_id: str) -> None: ...


class VirtualScaling:
    """instance_s, timeline, plans: as in ClusterRun."""

    def __init__(self, cluster: ScaledCluster, fleet: VirtualFleet, settings: ClusterSettings) -> None:
        """The instances of the settings are all that there can be; ids of one role differ in the number at the end."""
        assert settings.scaling is not None
        self._cluster = cluster
        self._fleet = fleet
        self._config = settings.scaling
        self._start_s = settings.start_s
        self._ids: dict[Role, list[str]] = {}
        for spec in settings.instances:
            self._ids.setdefault(spec.role, []).append(spec.instance_id)
        scaled, first = [], {}
        for role, ids in self._ids.items():
            config = self._config.of_role(role)
            scaled.append(Scaled("", ids[0].rstrip("0123456789"), config, automatic=True, role=role))
            first[role] = Wanted(tuple(ids[: settings.at_first.get(role, config.min_replicas)]), None)
        self._scaler = PoolScaler(scaled)
        self._wanted = WantedPool(first)  # those that are there
        self._failed: dict[str, str] = {}
        self.instance_s = 0.0
        self.timeline: list[tuple[float, int, int]] = []
        self.plans: list[tuple[float, str]] = []

    def begin(self) -> None:
        for instance_id in self._there():
            self._cluster.join(instance_id)
        self._follow()
        self._cluster.clock.at(LOOK_S, self._look)

    def _there(self) -> list[str]:
        return [instance_id for wanted in self._wanted.by_role.values() for instance_id in wanted.ids]

    def _look(self) -> None:
        now, scaler = self._cluster.clock.now, self._scaler
        state = self._fleet.state(scaler.plans)
        ready = sum(member.state is MemberState.READY for member in state.members)
        there = len(self._there())
        self.instance_s += there * LOOK_S
        self.timeline.append((now, ready, there))
        for instance_id in scaler.look(state, now):
            self._cluster.drain(instance_id)
        for role, one in scaler.scalers.items():
            if one.plan is not None and (one.plan.start or one.plan.drain):
                self.plans.append((now, one.plan.reason if role is Role.BOTH else f"{role}: {one.plan.reason}"))
        self._follow()
        self._cluster.clock.at(now + LOOK_S, self._look)

    def _follow(self) -> None:
        """Start and stop instances as the Scaler says."""
        now, before = self._cluster.clock.now, set(self._there())
        self._wanted = self._scaler.wanted(self._wanted, self._failed, now, self._config)
        self._failed = {}
        there = self._there()
        for instance_id in sorted(before - set(there)):
            self._cluster.leave(instance_id)
        possible = {instance_id for ids in self._ids.values() for instance_id in ids}
        for instance_id in there:
            if instance_id not in possible:
                self._failed[instance_id] = "there is no place for it"
            elif instance_id not in before:
                self._cluster.clock.at(now + self._start_s, self._started, instance_id)

    def _started(self, instance_id: str) -> None:
        if instance_id in self._there():
            self._cluster.join(instance_id)
