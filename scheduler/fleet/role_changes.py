"""A pool whose number of instances stays: one changes its role where its role has too many and the other too few.

Who gives and who takes is what each role's plan says by itself: the taker's starts one, the giver's lets one go, each
with its windows, margins and cool-down. One change is under way at a time, and one that had to be taken back is not
made again for twice as long as the last time.
"""

from collections.abc import Mapping
from dataclasses import replace

from dualmap.scheduler.fleet.role_orders import RoleOrders
from dualmap.scheduler.fleet.scaler import Scaler
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan
from dualmap.scheduler.role import Role

FIRST_CALM_S = 300.0  # after a change was taken back, until the same is made again
MOST_CALM_S = 7200.0


class RoleChanges:
    """on: whether there are any. orders: get those of instances that others start; ours leave, and others are started
    in their place. A change moves one from the number of a role to that of the other, and the Scalers do the rest: a
    successor that knows the numbers goes on with it."""

    def __init__(self, scalers: Mapping[Role, Scaler], orders: RoleOrders) -> None:
        self.on = False
        self._scalers = scalers
        self._orders = orders
        self._last: tuple[Role, Role] | None = None  # from, to
        self._last_at = 0.0
        self._calm_s = FIRST_CALM_S
        self._blocked: tuple[Role, Role] | None = None
        self._blocked_until = 0.0

    def keep(self) -> None:
        """Before the Scalers look: the number of each role stays, unless people say another one. Who is moved starts
        once the other role has one fewer."""
        scalers = self._scalers.values()
        broken_off = not self.on or any(scaler.told is not None for scaler in scalers)
        has_left = all(len(scaler.ids) <= scaler.fixed for scaler in scalers if not scaler.awaited)
        for scaler in scalers:
            if broken_off:
                scaler.fixed -= scaler.awaited
            if broken_off or has_left:
                scaler.awaited = 0
            scaler.fixed = self._number_of(scaler)

    def _number_of(self, scaler: Scaler) -> int:
        if not self.on:
            return 0
        if scaler.told is not None:
            return scaler.told
        if not scaler.starts_them:
            return max(1, len(scaler.members()))
        return scaler.fixed or max(scaler.least, len(scaler.ids))

    def look(self, now: float) -> None:
        """After the Scalers have looked."""
        under_way = self._orders.under_way or any(scaler.awaited for scaler in self._scalers.values())
        if self.on and not under_way and all(map(_may_change, self._scalers.values())):
            self._plan(now)

    def _plan(self, now: float) -> None:
        total = sum(scaler.fixed for scaler in self._scalers.values())
        least = sum(scaler.least for scaler in self._scalers.values())
        more = max(0, total - least)  # fewer are there where a person said so, or some that others start are away
        plans = {role: s.plan_between(s.least, s.least + more) for role, s in self._scalers.items()}
        for role, scaler in self._scalers.items():
            scaler.plan = replace(plans[role], start=0, drain=())
        for giver, taker in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
            blocked = self._blocked == (giver, taker) and now < self._blocked_until
            if plans[taker].start and plans[giver].drain and not blocked:
                reason = f"one goes to {taker}: {plans[taker].reason}"
                self._change(giver, taker, replace(plans[giver], drain=plans[giver].drain[:1], reason=reason), now)

    def _change(self, giver_role: Role, taker_role: Role, plan: ScalingPlan, now: float) -> None:
        giver, (instance_id,) = self._scalers[giver_role], plan.drain
        giver.plan = plan
        if giver.dry_run:
            return
        self._note(giver_role, taker_role, now)
        if giver.starts_them:
            taker = self._scalers[taker_role]
            giver.fixed -= 1
            taker.fixed += 1
            taker.awaited = 1
            giver.let_go(instance_id, now)
        else:
            self._orders.give(instance_id, taker_role)

    def _note(self, giver_role: Role, taker_role: Role, now: float) -> None:
        back = taker_role, giver_role
        soon = now - self._last_at < 2 * self._calm_s
        if self._last == back and soon:
            self._blocked, self._blocked_until = back, now + self._calm_s
            self._calm_s = min(2 * self._calm_s, MOST_CALM_S)
        elif not soon:
            self._calm_s = FIRST_CALM_S
        self._last, self._last_at = (giver_role, taker_role), now


def _may_change(scaler: Scaler) -> bool:
    """Whether its number is as it shall stay, and nobody has said another one."""
    plan = scaler.plan
    return plan is not None and scaler.told is None and not plan.start and not plan.drain
