"""Instances that others start, and that are there for another role than they are named with, because a person or a plan
said so."""

from collections.abc import Iterable, Mapping

from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.role import Role

GONE_S = 60.0  # an instance that is away for so long is forgotten: whoever comes at its address is another


class RoleOrders:
    """`now` is in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._roles: dict[str, Role] = {}
        self._seen_at: dict[str, float] = {}
        self._members: dict[str, Member] = {}
        self._begun = False

    def go_on_from(self, last: Mapping[str, Role]) -> None:
        """What was told before a restart."""
        if not self._begun:
            self._begun = True
            self._roles = dict(last)

    def roles(self) -> dict[str, Role]:
        return dict(self._roles)

    def give(self, instance_id: str, role: Role) -> None:
        self._roles[instance_id] = role

    def look(self, members: Iterable[Member], now: float) -> None:
        self._members = {member.instance_id: member for member in members}
        for instance_id in list(self._roles):
            if instance_id in self._members:
                self._seen_at[instance_id] = now
            elif now - self._seen_at.setdefault(instance_id, now) > GONE_S:
                del self._roles[instance_id], self._seen_at[instance_id]

    @property
    def under_way(self) -> bool:
        """Whether one is not yet there in its role. Who was, and is lost by now, keeps no other from changing."""
        known = ((self._members.get(i), role) for i, role in self._roles.items())
        there = (MemberState.READY, MemberState.LOST)
        return any(m is None or m.role is not role or m.state not in there for m, role in known)
