"""The actors of instances and their placement groups, in the process that owns them: they end with it."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dualmap.instances.actor.instance_actor import InstanceActor
from dualmap.router.config.instance_specs import PlacedSpec
from dualmap.router.deployment.actors import FORGET_TIMEOUT_S, STOP_TIMEOUT_S, settle
from dualmap.router.fleet.client import FleetClient
from dualmap.router.reach.names import FLEET
from dualmap.router.reach.ray_reach import RayCall, RayHandle, RayReach, ray_errors
from dualmap.router.reach.reach import CallError

NAME_TAKEN = "another deployment of this name runs on the Ray cluster: give this one another (`deployment`)"
NO_CPU = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}  # restarted; calls under way are not repeated


@dataclass(slots=True)
class _Instance:
    """actor: None while its placement group, or the name of a predecessor, is waited for. stopped: the call that stops
    it."""

    placed: PlacedSpec
    group: PlacementGroup | None
    begun_at: float = field(default_factory=time.monotonic)
    actor: RayHandle | None = None
    stopped: RayCall | None = None
    stop_by: float = 0.0


class OwnInstances:
    """reach: finds the deployment's actors. node_host: the address at which others reach an instance's node; None: Ray
    knows it. placement_timeout_s: a node may have to be added first."""

    def __init__(self, reach: RayReach, node_host: str | None, placement_timeout_s: float) -> None:
        self._reach = reach
        self._node_host = node_host
        self._placement_timeout_s = placement_timeout_s
        self._instances: dict[str, _Instance] = {}
        self.failed: dict[str, str] = {}  # instances that found no place, and why

    def actor(self, instance_id: str) -> RayHandle:
        """Of one that has a place."""
        actor = self._instances[instance_id].actor
        assert actor is not None
        return actor

    def actors(self) -> list[RayHandle]:
        return [instance.actor for instance in self._instances.values() if instance.actor is not None]

    def add(self, placed: PlacedSpec) -> None:
        """Have it started by the next steps. That its placement group is pending makes Ray's own autoscaler add a
        node."""
        group = placement_group([placed.bundle], strategy="STRICT_PACK") if placed.bundle else None
        self._instances[placed.spec.instance_id] = _Instance(placed, group)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._instances

    def step(self, wanted: Collection[str]) -> bool:
        """Start those that were added, stop those that are not wanted; waits for neither. Whether all is as wanted.
        Raises CallError while Ray's head is away."""
        with ray_errors():
            for instance_id, instance in list(self._instances.items()):
                if instance_id not in wanted:
                    self._stop(instance_id, instance)
                elif instance.actor is None:
                    self._start(instance_id, instance)
        return all(i.actor is not None and i.stopped is None for i in self._instances.values())

    def stop(self) -> None:
        """All of them, at once."""
        settle([actor.call("stop") for actor in self.actors()], STOP_TIMEOUT_S)
        for actor in self.actors():
            actor.kill()
        for instance in self._instances.values():
            if instance.group is not None:
                remove_placement_group(instance.group)
        self._instances.clear()

    def _start(self, instance_id: str, instance: _Instance) -> None:
        placed, group = instance.placed, instance.group
        options: dict[str, Any] = {"name": instance_id, **NO_CPU}
        late = time.monotonic() - instance.begun_at > self._placement_timeout_s
        if group is not None:
            if not has_place(group):
                if late:
                    self._give_up(instance_id, instance, lacking(placed))
                return
            strategy = PlacementGroupSchedulingStrategy(group)
            options |= {"scheduling_strategy": strategy, "num_gpus": placed.gpus, "num_cpus": placed.cpus}
        try:
            report = FleetClient(self._reach).report
            instance.actor = RayHandle(
                ray.remote(InstanceActor).options(**options).remote(placed.spec, report, self._node_host)
            )
        except ValueError as error:  # the name is taken: a predecessor has not gone yet
            if late:
                self._give_up(instance_id, instance, f"{NAME_TAKEN}: {error}")

    def _give_up(self, instance_id: str, instance: _Instance, why: str) -> None:
        if instance.group is not None:
            remove_placement_group(instance.group)
        del self._instances[instance_id]
        self.failed[instance_id] = why

    def _stop(self, instance_id: str, instance: _Instance) -> None:
        """First its server, then its actor; Fleet forgets it when neither can report any more."""
        if instance.actor is not None:
            if instance.stopped is None:
                instance.stopped = instance.actor.call("stop")
                instance.stop_by = time.monotonic() + STOP_TIMEOUT_S
            if not instance.stopped.done() and time.monotonic() < instance.stop_by:
                return
            instance.actor.kill()
            try:
                self._reach.in_background(FLEET).call("forget", instance_id).result(FORGET_TIMEOUT_S)
            except CallError:
                return  # again at the next step
        if instance.group is not None:
            remove_placement_group(instance.group)
        del self._instances[instance_id]


def has_place(group: PlacementGroup) -> bool:
    """Ask for its state: `group.wait(0)` leaves the call no time to answer, and on a busy machine none does."""
    return bool(placement_group_table(group)["state"] == "CREATED")


def lacking(placed: PlacedSpec) -> str:
    """Why there is no place for it."""
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in placed.bundle.items())
    resources = cluster_resources()
    has = ", ".join(f"{resources.get(name, 0.0):g} {name}" for name in placed.bundle)
    return (
        f"it needs {wanted} on one node; the Ray cluster has {has}, taken or not: lower replicas, gpus_per_replica or"
        " cpus_per_replica"
    )


def cluster_resources() -> dict[str, float]:
    """Of the whole Ray cluster, taken or not."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
