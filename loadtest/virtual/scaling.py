"""Scaling in virtual time: the plans that the live Autoscaler makes, on samples of the cores themselves."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_settings import InstanceSpec
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import InstanceCapacity, InstanceLoad
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_plan import InstanceSample, ScalingSample, plan_scaling
from dualmap.scheduler.gateway_loads import summed

SAMPLE_S = 1.0  # as in the live Autoscaler
COUNTED = ("arrived", "arrived_work_tokens", "slo_kept", "slo_missed", "tpot_kept", "tpot_missed")  # of SchedulerStats


class ScaledCluster(Protocol):
    """What is scaled, in virtual time."""

    cores: Sequence[Scheduler]
    clock: VirtualClock

    def join(self, instance_id: str) -> None: ...

    def drain(self, instance_id: str) -> None: ...

    def leave(self, instance_id: str) -> None: ...

    def capacity(self, instance_id: str) -> InstanceCapacity: ...


class VirtualScaling:
    """states: starting, ready or draining, by instance, of those that are there."""

    def __init__(
        self, cluster: ScaledCluster, specs: Sequence[InstanceSpec], config: ScalingConfig, start_s: float
    ) -> None:
        self._cluster = cluster
        self._ids = [spec.instance_id for spec in specs]
        self._config = config
        self._start_s = start_s
        window_s = config.down_window_s + config.up_window_s
        self._history: deque[ScalingSample] = deque(maxlen=round(window_s / SAMPLE_S) + 2)
        self._counted = (0,) * len(COUNTED)
        self._since: dict[str, float] = {}
        self.states: dict[str, str] = {}
        self.instance_s = 0.0
        self.timeline: list[tuple[float, int, int]] = []
        self.plans: list[tuple[float, str]] = []

    def begin(self) -> None:
        for instance_id in self._ids[: self._config.min_replicas]:
            self._cluster.join(instance_id)
            self._set(instance_id, "ready", 0.0)
        self._cluster.clock.at(SAMPLE_S, self._look, SAMPLE_S)

    def _set(self, instance_id: str, state: str, now: float) -> None:
        self.states[instance_id] = state
        self._since[instance_id] = now

    def _look(self, now: float) -> None:
        self.instance_s += len(self.states) * SAMPLE_S
        self.timeline.append((now, sum(state == "ready" for state in self.states.values()), len(self.states)))
        self._let_leave(now)
        self._history.append(self._sample(now))
        plan = plan_scaling(tuple(self._history), self._config, self._start_s)
        free = [instance_id for instance_id in self._ids if instance_id not in self.states]
        for instance_id in free[: plan.start]:
            self._set(instance_id, "starting", now)
            self._cluster.clock.at(now + self._start_s, self._started, instance_id, now + self._start_s)
        for instance_id in plan.drain:
            self._set(instance_id, "draining", now)
            self._cluster.drain(instance_id)
        if plan.start or plan.drain:
            self.plans.append((now, plan.reason))
        self._cluster.clock.at(now + SAMPLE_S, self._look, now + SAMPLE_S)

    def _started(self, instance_id: str, now: float) -> None:
        self._set(instance_id, "ready", now)
        self._cluster.join(instance_id)

    def _let_leave(self, now: float) -> None:
        """Those that have nothing left to do, or have had the time for it."""
        for instance_id in [i for i, state in self.states.items() if state == "draining"]:
            views = [core.instances.get(instance_id) for core in self._cluster.cores]
            busy = any(view is not None and (view.running or len(view.waiting)) for view in views)
            if not busy or now - self._since[instance_id] > self._config.drain_deadline_s:
                self._cluster.leave(instance_id)
                del self.states[instance_id]

    def _sample(self, now: float) -> ScalingSample:
        loads = {
            load.instance_id: load for load in summed(x for core in self._cluster.cores for x in core.own_loads(now))
        }
        stats = [core.stats for core in self._cluster.cores]
        counted = tuple(sum(getattr(s, name) for s in stats) for name in COUNTED)
        new = {name: after - before for name, after, before in zip(COUNTED, counted, self._counted, strict=True)}
        self._counted = counted
        instances = (self._instance(i, state, loads.get(i), now) for i, state in self.states.items())
        return ScalingSample(now, tuple(instances), **new)

    def _instance(self, instance_id: str, state: str, load: InstanceLoad | None, now: float) -> InstanceSample:
        load = load or InstanceLoad(instance_id, 0, 0, 0, 0)
        return InstanceSample(
            instance_id,
            state,
            self._cluster.capacity(instance_id),
            load.seconds_per_token,
            load.prefilling_tokens,
            load.waiting_tokens,
            load.waiting,
            load.running,
            load.kv_tokens,
            load.saved_tokens,
            now - self._since[instance_id],
        )
