"""Instances that others start, and that are there for another role than they are named with, because a person or a plan
said so."""

from collections.abc import Iterable, Mapping

from dualmap.scheduler.fleet.member import LONGEST_START_S, Member, MemberState
from dualmap.scheduler.role import Role

GONE_S = 60.0  # an instance that is away for so long is forgotten: whoever comes at its address is another


class RoleOrders:
    """under_way: whether an instance is waited for that is still to be there in its role, as last looked at. `now` is
    in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self.under_way = False
        self._roles: dict[str, Role] = {}
        self._seen_at: dict[str, float] = {}
        self._changes_since: dict[str, float] = {}
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
        by_id = {member.instance_id: member for member in members}
        for instance_id in list(self._roles):
            if instance_id in by_id:
                self._seen_at[instance_id] = now
            elif now - self._seen_at.setdefault(instance_id, now) > GONE_S:
                del self._roles[instance_id], self._seen_at[instance_id]
        changing = {i for i, role in self._roles.items() if _changes(by_id.get(i), role)}
        self._changes_since = {i: self._changes_since.get(i, now) for i in changing}
        self.under_way = any(now - since <= LONGEST_START_S for since in self._changes_since.values())


def _changes(member: Member | None, role: Role) -> bool:
    """Whether it is still to be there in the role. One that is lost may never come."""
    if member is None:
        return True
    there = member.role is role and member.state is not MemberState.STARTING
    return not there and member.state is not MemberState.LOST
