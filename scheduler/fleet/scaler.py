"""Which instances of a pool there should be, by plans or as people say; who leaves is drained first.

It keeps nothing that Fleet's state and its own last answer do not bring back.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from math import inf
from typing import Any

from dualmap.scheduler.fleet.member import LONGEST_START_S, Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, PoolPlan
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_history import ScalingHistory
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan, instances, plan_scaling
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.role import Role

RETRY_S = 30.0  # after a start that failed
MOST_REPLICAS = 1024
TOLD_S = 5.0  # within which one that others start is seen to drain


class RefusedError(Exception):
    """What was asked for cannot be done; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """The pool that is scaled, or the instances of one role in it. prefix: of the instances' ids, a number follows;
    empty where all are external: others follow the plans then. config: as for these instances. automatic: plans decide,
    not only people. role: who decodes has those with it that do both."""

    pool_name: str
    prefix: str
    config: ScalingConfig
    _: KW_ONLY
    automatic: bool
    role: Role = Role.BOTH


@dataclass(frozen=True, slots=True)
class Wanted:
    """ids: of our instances that there should be. told: how many a person asked for; None: plans decide. fixed: how
    many changes of roles keep in this role; 0: there are no such changes. awaited: how many of `fixed` start only once
    another has left the other role."""

    ids: tuple[str, ...]
    told: int | None
    _: KW_ONLY
    fixed: int = 0
    awaited: int = 0


@dataclass(frozen=True, slots=True)
class WantedPool:
    """by_role: of our instances that there should be. roles: of instances that others start, those that are there for
    another role than they are named with."""

    by_role: Mapping[Role, Wanted]
    roles: Mapping[str, Role] = field(default_factory=dict)


class Scaler:
    """ids: of our instances that there should be. told: as in Wanted. state: of the fleet, as last looked at; None
    while Fleet is away. plan: what was planned at the last look, if anything. pool_plan: the last plan, for gateways to
    show. fixed, awaited: as in Wanted.

    `now` is in seconds of any monotonic clock, the same one at each call."""

    def __init__(self, scaled: Scaled) -> None:
        self.ids: set[str] = set()
        self.told: int | None = None
        self.state: FleetState | None = None
        self.plan: ScalingPlan | None = None
        self.pool_plan: PoolPlan | None = None
        self.fixed = self.awaited = 0
        self._scaled = scaled
        self._begun = False  # until then it is not known what runs
        longest_start_s = inf if scaled.prefix else LONGEST_START_S  # ours are told to be lost then
        self._history = ScalingHistory(scaled.pool_name, scaled.config, scaled.role, longest_start_s)
        self._told_to_drain: dict[str, float] = {}  # of those that others start, when, until that is seen
        self._leaving: dict[str, float] = {}  # of `ids`, those that go once they are drained; since when
        self._note = ""
        self._retry_at = 0.0
        has_role = scaled.role is not Role.BOTH
        self._name, self._to_what = (f"{scaled.role}: ", f" to {scaled.role}") if has_role else ("", "")

    # What whoever starts and stops instances asks.

    def wanted(
        self, last: Wanted, failed: Mapping[str, str], now: float, config: ScalingConfig | None = None
    ) -> Wanted:
        """Which instances of ours there should be. last: the answer before, which is where a restarted Scaler goes on.
        failed: those that could not be started, and why. config: as it is by now."""
        if config is not None:
            self._scaled = replace(self._scaled, config=config)
            self._history.keep_for(config)
        if not self._begun:
            self._begun = True
            self.ids = set(last.ids)
            self.told = last.told
            self.fixed, self.awaited = last.fixed, last.awaited
        for instance_id, why in failed.items():
            self.ids.discard(instance_id)
            self._note = f"{instance_id} could not be started: {why}"
            self._retry_at = now + RETRY_S
        return Wanted(tuple(sorted(self.ids)), self.told, fixed=self.fixed, awaited=self.awaited)

    # What Fleet says.

    @property
    def informed(self) -> bool:
        """Whether it is known what runs and how that does; people's orders have to wait for it."""
        return self._begun and self.state is not None

    def look(
        self, state: FleetState | None, now: float, restarting: str | None = None, standing_in: str | None = None
    ) -> tuple[str, ...]:
        """Plan by the fleet's state, expected each second. Returns the instances that are to be told to drain, which is
        said again until they do. restarting, standing_in: of a rolling restart, the instance whose turn it is, and the
        one more for the time being."""
        self.state = state
        self.plan = None
        if state is None or not self._begun:
            return ()
        draining = self._go_on_draining(state, now, restarting)
        ours = bool(self._scaled.prefix)
        if not state.settled or not (ours or self._scaled.automatic):
            return tuple(draining)
        counted = sorted(self.ids - {standing_in}) if ours else sorted(self.members())
        self._history.add(now, state, counted, self._leaving.keys(), restarting)
        bounds = self._bounds()
        plan = plan_scaling(self._history.samples(), bounds, self._history.start_s)
        if not ours:
            plan = replace(plan, start=0, drain=())
        self.plan = plan
        self.pool_plan = PoolPlan(
            self._scaled.pool_name,
            plan.replicas,
            bounds.min_replicas,
            most=bounds.most,
            role=self._scaled.role,
        )
        if self.dry_run:
            return tuple(draining)
        if plan.start and now >= self._retry_at:
            self._give_up_lost(plan.start)
            self._start(plan.start)
        self._leaving |= dict.fromkeys(plan.drain, now)
        return (*draining, *plan.drain)

    def _go_on_draining(self, state: FleetState, now: float, restarting: str | None) -> list[str]:
        """Let those go that have nothing left to do, or have had the time for it, also those that drain since before a
        restart of ours. Returns those that have not heard yet that they leave."""
        members = self.members()
        for instance_id in sorted(self.ids - {restarting}):
            if instance_id in members and members[instance_id].state is MemberState.DRAINING:
                self._leaving.setdefault(instance_id, now)
        unheard = []
        for instance_id, since in list(self._leaving.items()):
            member = members.get(instance_id)
            late = now - since > self._scaled.config.drain_deadline_s
            if member is not None and member.state is MemberState.READY and not late:
                unheard.append(instance_id)
            elif late or member is None or member.state is not MemberState.DRAINING or state.is_drained(instance_id):
                del self._leaving[instance_id]
                self.ids.discard(instance_id)
        return unheard

    def _give_up_lost(self, starting: int) -> None:
        """As many as those that start in their place would be too many."""
        too_many = len(self.staying()) + starting - self._bounds().most
        self.ids -= set(sorted(self._history.lost)[: max(0, too_many)])

    def _start(self, count: int) -> list[str]:
        """The lowest free numbers: what is started again gets its old places on the rings."""
        self._note = ""
        taken = self.ids | self.members().keys()
        numbered = (f"{self._scaled.prefix}{number}" for number in range(len(taken) + count))
        started = [instance_id for instance_id in numbered if instance_id not in taken][:count]
        self.ids.update(started)
        return started

    # What people ask for. Each returns a line that says what happens now, and raises RefusedError.

    def may_scale(self, replicas: int | None) -> None:
        """Raises RefusedError where `scale` cannot be done."""
        if not self._scaled.prefix:
            raise RefusedError("the instances of this deployment run on their own: they are not started here")
        if replicas is None:
            if not self._scaled.automatic:
                raise RefusedError("nothing is configured to scale by: there is no `scaling` section")
        elif not 1 <= replicas <= MOST_REPLICAS:
            raise RefusedError(f"the number of instances must be from 1 to {MOST_REPLICAS}, not {replicas}")

    def scale(self, replicas: int | None) -> str:
        """None: plans decide again."""
        self.may_scale(replicas)
        self.told = replicas
        if replicas is None:
            config = self._scaled.config
            return f"{self._name}between {config.min_replicas} and {config.most}, by load"
        self._note = ""
        self._retry_at = 0.0
        beyond = self._bound_passed_by(replicas)
        here, leaving = len(self.ids), len(self.ids) - len(self.staying())
        return (
            f"{self._name}{instances(replicas)} wanted{f' ({beyond})' if beyond else ''},"
            f" {here} now{f' ({leaving} leaving)' if leaving else ''}"
        )

    def _bound_passed_by(self, replicas: int) -> str:
        """Of those that hold for load alone; empty where there is none."""
        config = self._scaled.config
        if config.max_replicas is not None and replicas > config.max_replicas:
            return f"more than max_replicas, {config.max_replicas}"
        least = config.min_replicas
        return f"fewer than min_replicas, {least}" if replicas < least else ""

    def drain(self, instance_id: str, now: float) -> str:
        """The instance has to be told."""
        self._must_be_there(instance_id)
        named = set(self.named(instance_id))
        self._told_to_drain = {i: at for i, at in self._told_to_drain.items() if now - at < TOLD_S}
        goes = self._leaving.keys() | self._told_to_drain.keys()
        ready = {i for i, m in self.members().items() if m.state is MemberState.READY and i not in goes}
        if ready and ready <= named:
            raise RefusedError(f"{instance_id} is the last instance that is ready{self._to_what}")
        answer = {i for i in ready if self.members()[i].role is not Role.PREFILL}
        if answer and answer <= named:
            raise RefusedError(f"{instance_id} is the last instance that answers: without it nobody decodes")
        if instance_id not in self.ids:
            self._told_to_drain |= dict.fromkeys(named, now)
            return f"{instance_id} is given no new requests; it is not stopped, since it was not started here"
        if instance_id not in self._leaving:
            self._leaving[instance_id] = now
            if self.told is not None:
                self.told = max(1, self.told - 1)
        return f"{instance_id} is given no new requests and stops when those it has are done"

    def keep(self, instance_id: str) -> None:
        """Do not tell it to drain again; once it has heard that it stays: `kept`."""
        self._must_be_there(instance_id)
        self._leaving.pop(instance_id, None)
        for named in self.named(instance_id):
            self._told_to_drain.pop(named, None)

    def kept(self, instance_id: str) -> str:
        self._leaving.pop(instance_id, None)  # seen to drain meanwhile
        if instance_id in self.ids and self.told is not None:
            self.told = max(self.told, len(self.staying()))
        return f"{instance_id} is given requests again"

    def named(self, instance_id: str) -> list[str]:
        """The instances that are meant: itself, or all ranks of a server."""
        members = self.members()
        if instance_id in members:
            return [instance_id]
        return [i for i, member in members.items() if member.endpoint.server.instance_id == instance_id]

    def _must_be_there(self, instance_id: str) -> None:
        if not self.named(instance_id):
            known = ", ".join(sorted(self.members()))
            raise RefusedError(f"there is no instance {instance_id!r}; there are {known}")

    # What changes of roles ask for: see RoleChanges.

    def plan_between(self, least: int, most: int) -> ScalingPlan:
        """What the last look calls for where there may be so many. There was one."""
        bounds = replace(self._scaled.config, min_replicas=least, max_replicas=most)
        return plan_scaling(self._history.samples(), bounds, self._history.start_s)

    @property
    def least(self) -> int:
        """As configured."""
        return self._scaled.config.min_replicas

    @property
    def starts_them(self) -> bool:
        """Whether its instances are ours."""
        return bool(self._scaled.prefix)

    # What a rolling restart asks for.

    def add(self) -> str:
        """One more, whatever plans say; the id of it."""
        (instance_id,) = self._start(1)
        return instance_id

    def let_go(self, instance_id: str, now: float) -> None:
        self._leaving.setdefault(instance_id, now)

    def member(self, instance_id: str) -> Member | None:
        return self.members().get(instance_id)

    # What there is.

    @property
    def dry_run(self) -> bool:
        """Whether plans are only told. What a person asks for is done."""
        return self._scaled.config.dry_run and self.told is None

    @property
    def drain_deadline_s(self) -> float:
        return self._scaled.config.drain_deadline_s

    def staying(self) -> list[str]:
        return sorted(self.ids - self._leaving.keys())

    def members(self) -> dict[str, Member]:
        """Of the pool, and of the role."""
        members = self.state.members if self.state else ()
        return {m.instance_id: m for m in members if m.pool == self._scaled.pool_name and self._counts(m)}

    def _counts(self, member: Member) -> bool:
        role = self._scaled.role
        return role is Role.BOTH or (member.role is Role.PREFILL) is (role is Role.PREFILL)

    def describe(self) -> dict[str, Any]:
        """All there is to know, as plain values."""
        bounds = self._bounds()
        members = self.members()
        held = self.state.held if self.state else {}
        return {
            "pool": self._scaled.pool_name,
            "role": self._scaled.role.value,
            "scaled": bool(self._scaled.prefix),
            "planned": self._scaled.automatic,
            "wanted": None if self.pool_plan is None else self.pool_plan.wanted,
            "held": held.get(self._scaled.pool_name, HeldWork()).requests,
            "automatic": self._scaled.automatic and self.told is None,
            "dry_run": self._scaled.config.dry_run,
            "min_replicas": bounds.min_replicas,
            "max_replicas": bounds.most,
            "start_s": self._history.start_s,
            "fleet": "away" if self.state is None else "settled" if self.state.settled else "settling",
            "note": self._note,
            "instances": [
                self._row(i, members.get(i)) for i in (*sorted(self.ids), *sorted(members.keys() - self.ids))
            ],
        }

    def _row(self, instance_id: str, member: Member | None) -> dict[str, Any]:
        load = self.state.loads.get(instance_id) if self.state else None
        return {
            "instance_id": instance_id,
            "state": member.state.value if member else "starting",
            "role": (member.role if member else self._scaled.role).value,
            "reason": member.reason if member else "",
            "ours": instance_id in self.ids,
            "leaving": instance_id in self._leaving,
            "running": load.running if load else 0,
            "waiting": load.waiting if load else 0,
        }

    def _bounds(self) -> ScalingConfig:
        config = self._scaled.config
        number = self.told or self.fixed - self.awaited
        return config if not number else replace(config, min_replicas=number, max_replicas=number)
