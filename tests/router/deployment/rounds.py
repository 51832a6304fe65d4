"""Rounds of a deployment in front of instances that others start, without a Watcher and a Fleet."""

import pytest

from dualmap.router.config.load import load_config
from dualmap.router.deployment import external_instances, name_watch
from dualmap.router.deployment.external_instances import ExternalInstances
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import NOWHERE
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState
from dualmap.scheduler.instance_capacity import InstanceCapacity


class Watch:
    """Kubernetes, as far as it has been heard."""

    def __init__(self) -> None:
        self.found: dict[str, bool] | None = None
        self.labels = {}
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class Watched:
    """In place of WatchedInstances: the Watcher is there at once, and each server answers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.specs = {}
        self.members: dict[str, MemberState] = {}
        self.comes_as = MemberState.READY
        self.busy: set[str] = set()
        self.fleet_is_away = False

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self.specs

    def add(self, spec) -> None:
        self.specs[spec.instance_id] = spec
        self.members[spec.instance_id] = self.comes_as

    def remove(self, instance_id: str) -> None:
        del self.specs[instance_id], self.members[instance_id]

    def tell(self, instance_id: str, order: str) -> None:
        self.told.append((instance_id, order))
        self.members[instance_id] = MemberState.DRAINING if order == "drain" else MemberState.READY

    def step(self) -> None:
        pass

    def state(self) -> FleetState:
        if self.fleet_is_away:
            raise CallError("no answer")
        members = tuple(
            Member(i, 1, NOWHERE, state=state, capacity=InstanceCapacity()) for i, state in self.members.items()
        )
        loads = {i: InstanceLoad(i, 1, 0, waiting_tokens=0, kv_tokens=0) for i in self.busy}
        return FleetState(
            1, True, members, gateways=(GatewayState("gateway-0", 1, "", age_s=0.0),), loads=loads, totals={}
        )


class Rounds:
    """A deployment's rounds. watches: those begun, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.watched = Watched()
        self.said: list[str] = []
        self.watches: list[Watch] = []
        self.addresses: dict[str, list[str]] = {}  # by name, as DNS has them
        monkeypatch.setattr(external_instances, "watch_pods", self._begin)
        monkeypatch.setattr(name_watch, "RESOLVE_S", 0.01)
        self.external: ExternalInstances | None = None

    def _begin(self, settings, say) -> Watch:
        self.watches.append(Watch())
        return self.watches[-1]

    def _resolve(self, name: str) -> list[str]:
        if name not in self.addresses:
            raise OSError
        return self.addresses[name]

    def configure(self, **values: object) -> None:
        config = load_config(None, {"pools": {"sims": {"simulate": {"count": 1}}}, **values})
        if self.external is None:
            self.external = ExternalInstances(config, self.watched, self.said.append, self.watched.state, self._resolve)
        self.external.config = config

    def round(self) -> set[str]:
        """Those there are after it."""
        self.external.round()
        assert self.external.ids.keys() == self.watched.specs.keys()
        return set(self.watched.specs)
