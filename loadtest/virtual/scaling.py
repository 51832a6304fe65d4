"""Scaling in virtual time: the live Scaler, and what `dualmap up` does beside it."""

from collections.abc import Sequence
from typing import Protocol

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_settings import InstanceSpec
from dualmap.loadtest.virtual.fleet import VirtualFleet
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.scaler import Scaled, Scaler, Wanted
from dualmap.scheduler.fleet.scaling_config import ScalingConfig

LOOK_S = 1.0  # as in the live Autoscaler


class ScaledCluster(Protocol):
    """What is scaled, in virtual time."""

    clock: VirtualClock

    def join(self, instance_id: str) -> None: ...

    def drain(self, instance_id: str) -> None: ...

    def leave(self, instance_id: str) -> None: ...


class VirtualScaling:
    """instance_s, timeline, plans: as in ClusterRun."""

    def __init__(
        self,
        cluster: ScaledCluster,
        fleet: VirtualFleet,
        specs: Sequence[InstanceSpec],
        config: ScalingConfig,
        start_s: float,
    ) -> None:
        """specs: of all instances that there can be; their ids differ in the number at the end."""
        self._cluster = cluster
        self._fleet = fleet
        self._ids = [spec.instance_id for spec in specs]
        self._start_s = start_s
        self._scaler = Scaler(Scaled("", self._ids[0].rstrip("0123456789"), config, automatic=True))
        self._wanted = Wanted(tuple(self._ids[: config.min_replicas]), None)  # those that are there
        self._failed: dict[str, str] = {}
        self.instance_s = 0.0
        self.timeline: list[tuple[float, int, int]] = []
        self.plans: list[tuple[float, str]] = []

    def begin(self) -> None:
        for instance_id in self._wanted.ids:
            self._cluster.join(instance_id)
        self._follow()
        self._cluster.clock.at(LOOK_S, self._look)

    def _look(self) -> None:
        now, scaler = self._cluster.clock.now, self._scaler
        state = self._fleet.state(filter(None, (scaler.pool_plan,)))
        ready = sum(member.state is MemberState.READY for member in state.members)
        self.instance_s += len(self._wanted.ids) * LOOK_S
        self.timeline.append((now, ready, len(self._wanted.ids)))
        for instance_id in scaler.look(state, now):
            self._cluster.drain(instance_id)
        if scaler.plan is not None and (scaler.plan.start or scaler.plan.drain):
            self.plans.append((now, scaler.plan.reason))
        self._follow()
        self._cluster.clock.at(now + LOOK_S, self._look)

    def _follow(self) -> None:
        """Start and stop instances as the Scaler says."""
        now, before = self._cluster.clock.now, set(self._wanted.ids)
        self._wanted = self._scaler.wanted(self._wanted, self._failed, now)
        self._failed = {}
        for instance_id in sorted(before - set(self._wanted.ids)):
            self._cluster.leave(instance_id)
        for instance_id in self._wanted.ids:
            if instance_id not in self._ids:
                self._failed[instance_id] = "there is no place for it"
            elif instance_id not in before:
                self._cluster.clock.at(now + self._start_s, self._started, instance_id)

    def _started(self, instance_id: str) -> None:
        if instance_id in self._wanted.ids:
            self._cluster.join(instance_id)
