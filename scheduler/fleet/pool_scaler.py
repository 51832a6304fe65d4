"""The instances of a pool: a Scaler for all of them, or one for each role."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.messages import FleetState, PoolPlan
from dualmap.scheduler.fleet.role_changes import RoleChanges
from dualmap.scheduler.fleet.role_orders import RoleOrders
from dualmap.scheduler.fleet.scaler import RefusedError, Scaled, Scaler, WantedPool
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.role import Role

Replicas = int | None | Mapping[str, int | None]  # for all, or by role; None: plans decide
EACH_ITS_OWN = "each role has its own number here: prefill=N, decode=N, or both of them"


class PoolScaler:
    """scalers: by role; `both` alone where instances have none that are scaled apart.

    `now` is in seconds of any monotonic clock, the same one at each call."""

    def __init__(self, scaled: Sequence[Scaled]) -> None:
        self.scalers = {one.role: Scaler(one) for one in scaled}
        self._orders = RoleOrders()
        self._changes = RoleChanges(self.scalers, self._orders)

    # What whoever starts and stops instances asks, and what Fleet says: see Scaler.

    def wanted(
        self, last: WantedPool, failed: Mapping[str, str], now: float, config: ScalingConfig | None = None
    ) -> WantedPool:
        """config: of the pool."""
        self._orders.go_on_from(last.roles)
        self._changes.on = config is not None and config.change_roles
        by_role = {}
        for role, scaler in self.scalers.items():
            of_role = {i: why for i, why in failed.items() if i in last.by_role[role].ids}
            by_role[role] = scaler.wanted(last.by_role[role], of_role, now, config and config.of_role(role))
        return WantedPool(by_role, self._orders.roles())

    @property
    def informed(self) -> bool:
        return all(scaler.informed for scaler in self.scalers.values())

    def look(
        self, state: FleetState | None, now: float, restarting: str | None = None, standing_in: str | None = None
    ) -> tuple[str, ...]:
        """Returns the instances that are to be told to drain."""
        self._changes.keep()
        looks = [scaler.look(state, now, restarting, standing_in) for scaler in self.scalers.values()]
        if state is not None:
            self._orders.look(state.members, now)
            if state.settled and restarting is None and standing_in is None:
                self._changes.look(now)
        return tuple(instance_id for look in looks for instance_id in look)

    @property
    def plans(self) -> tuple[PoolPlan, ...]:
        """The last ones, for gateways to show."""
        return tuple(s.pool_plan for s in self.scalers.values() if s.pool_plan is not None)

    def describe(self) -> list[dict[str, Any]]:
        """For each role, all there is to know, as plain values."""
        roles = {instance_id: role.value for instance_id, role in self._orders.roles().items()}
        return [{**scaler.describe(), "ordered_roles": roles} for scaler in self.scalers.values()]

    # What people ask for. Raises RefusedError.

    def scale(self, replicas: Replicas) -> str:
        """Returns a line that says what happens now. All that is asked for, or nothing of it."""
        wishes = list(self._wishes(replicas))
        for scaler, number in wishes:
            scaler.may_scale(number)
        return "; ".join(scaler.scale(number) for scaler, number in wishes)

    def _wishes(self, replicas: Replicas) -> Iterator[tuple[Scaler, int | None]]:
        if replicas is None:
            for scaler in self.scalers.values():
                yield scaler, None
        elif isinstance(replicas, int):
            if Role.BOTH not in self.scalers:
                raise RefusedError(EACH_ITS_OWN)
            yield self.scalers[Role.BOTH], replicas
        else:
            for role, number in replicas.items():
                if role not in self.scalers:
                    if Role.BOTH not in self.scalers:
                        raise RefusedError(f"no role {role!r}: {EACH_ITS_OWN}")
                    self.scalers[Role.BOTH].may_scale(1)  # where others start them, no number can be said
                    raise RefusedError(f"no instances of the role {role} are scaled by themselves here: say N alone")
                yield self.scalers[Role(role)], number

    def change_role(self, instance_id: str, role: str) -> str:
        """Of one that others start: it drains, and comes again in that role. Returns a line that says so."""
        scaler = self.scaler_of(instance_id)
        named = [scaler.members()[i] for i in scaler.named(instance_id)]
        wanted = Role(role)
        if instance_id in scaler.ids or any(member.instance_id in scaler.ids for member in named):
            why = ", for its role: start others, `dualmap scale prefill=N decode=N`"
            if Role.BOTH in self.scalers:
                why = ": only an instance that others start is given another role"
            raise RefusedError(f"{instance_id} was started here{why}")
        ids = {member.instance_id for member in named}
        goes = ids | {i for i, role in self._orders.roles().items() if role is Role.PREFILL}
        answering = (m for s in self.scalers.values() for m in s.members().values() if m.role is not Role.PREFILL)
        if wanted is Role.PREFILL and not any(
            m.state is MemberState.READY and m.instance_id not in goes for m in answering
        ):
            raise RefusedError(f"{instance_id} is the last instance that answers: without it nobody decodes")
        ordered = self._orders.roles()
        has_it = all(m.role is wanted is ordered.get(m.instance_id, wanted) for m in named)
        for each in ids:
            self._orders.give(each, wanted)
        if has_it:
            return f"{instance_id} has the role {wanted} already, and keeps it"
        return f"{instance_id} drains, and comes again in the role {wanted}"

    def scaler_of(self, instance_id: str) -> Scaler:
        """Who scales it."""
        for scaler in self.scalers.values():
            if instance_id in scaler.ids or scaler.named(instance_id):
                return scaler
        known = ", ".join(sorted(i for scaler in self.scalers.values() for i in scaler.members()))
        raise RefusedError(f"there is no instance {instance_id!r}; there are {known}")
