"""What a change of membership means to the core."""

from dualmap.scheduler.events import InstanceDraining, InstanceJoined, InstanceLost
from dualmap.scheduler.fleet.member import SERVING, Member, Membership, MemberState

MembershipEvent = InstanceJoined | InstanceDraining | InstanceLost


def membership_events(old: Membership, new: Membership) -> list[MembershipEvent]:
    """Joins first, so that what a lost instance had finds the instance that replaces it. A member that is first seen
    while it drains joins when it drains no more. A higher incarnation replaces a lower one in a single event."""
    before = {m.instance_id: m for m in old.members if m.state in SERVING}
    after = {m.instance_id: m for m in new.members}
    joined: list[MembershipEvent] = []
    draining: list[MembershipEvent] = []
    lost: list[MembershipEvent] = []
    for member in new.members:
        known = before.get(member.instance_id)
        if member.state is MemberState.READY and (
            known is None
            or member.incarnation > known.incarnation
            or known.state is MemberState.DRAINING
            or known.capacity.cache_tokens != member.capacity.cache_tokens
            or _offers_another(known, member)
        ):
            joined.append(
                InstanceJoined(
                    member.instance_id,
                    member.incarnation,
                    member.capacity,
                    adapters=member.adapters,
                    models=member.models,
                    role=member.role,
                    revision=member.revision,
                )
            )
        elif member.state is MemberState.DRAINING and known is not None and known.state is MemberState.READY:
            draining.append(InstanceDraining(member.instance_id, member.incarnation))
    for known in before.values():
        member_now = after.get(known.instance_id)
        if cause := _loss(known, member_now):
            lost.append(InstanceLost(known.instance_id, known.incarnation, cause))
    return joined + draining + lost


def _offers_another(known: Member, now: Member) -> bool:
    """Cards are compared first: they rarely differ, and all members are looked at in each epoch."""
    if known.role is not now.role or known.revision != now.revision:
        return True
    return known.model_cards != now.model_cards and (known.adapters, known.models) != (now.adapters, now.models)


def _loss(known: Member, now: Member | None) -> str:
    """Why the core loses a member it has; empty where it does not."""
    if now is None:
        return "removed"
    if now.state not in SERVING:
        return now.state.value
    if now.state is MemberState.DRAINING and now.incarnation > known.incarnation:
        return "replaced"
    return ""
