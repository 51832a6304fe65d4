"""What is served by pools that have no instance at the moment, and whose requests are held until one comes."""

from collections.abc import Collection, Mapping

from dualmap.scheduler.fleet.endpoint import NOWHERE
from dualmap.scheduler.fleet.member import SERVING, Member, Membership, MemberState
from dualmap.scheduler.instance_capacity import InstanceCapacity


class ColdModels:
    """holding: pools, by name, whose requests are held while no instance can run them."""

    def __init__(self, named: Mapping[str, Collection[str]]) -> None:
        """named: by pool, models as configured."""
        self.holding: frozenset[str] = frozenset()
        self._named = named
        self._last: dict[str, tuple[Member, ...]] = {}  # by pool: those that served last

    def with_stand_ins(self, membership: Membership) -> tuple[Membership, str | None]:
        """The members, and for a pool without any that serve, those that did last, or what is configured; and the
        first pool of which nothing is known."""
        serving: dict[str, list[Member]] = {}
        for member in membership.members:
            if member.state in SERVING:
                serving.setdefault(member.pool, []).append(member)
        self._last |= {pool: tuple(members) for pool, members in serving.items()}
        members = list(membership.members)
        unknown = []
        for pool in sorted(self.holding - serving.keys()):
            stand_ins = self._last.get(pool) or self._as_configured(pool)
            members += stand_ins
            if not stand_ins and not any(member.pool == pool and member.model_cards for member in members):
                unknown.append(pool)
        return Membership(membership.epoch, tuple(members)), next(iter(unknown), None)

    def _as_configured(self, pool: str) -> tuple[Member, ...]:
        cards = tuple({"id": name, "object": "model", "owned_by": "vllm"} for name in self._named.get(pool, ()))
        if not cards:
            return ()
        ready, capacity = MemberState.READY, InstanceCapacity()
        return (Member("", 0, NOWHERE, state=ready, capacity=capacity, model_cards=cards, pool=pool),)
