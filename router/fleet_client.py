"""How instances and gateways reach Fleet. While it is away they go on with what they know."""

from ray.exceptions import RayError

from router.actor_by_name import FLEET, actor_by_name
from router.membership import Member, Membership
from router.signals import InstanceSignals, SignalNews


class FleetClient:
    async def report(self, member: Member, signals: InstanceSignals | None) -> bool:
        """Whether Fleet knows all of the signals told so far. While Fleet is away the report is lost: the next
        heartbeat says it again."""
        try:
            known: bool = await actor_by_name(FLEET).report.remote(member, signals)
        except (RayError, ValueError):
            return False
        return known

    async def sync(self, known_epoch: int, known_signals: int) -> tuple[Membership | None, SignalNews | None]:
        """What is newer than is known: the membership and the signals; nothing also while Fleet is away."""
        try:
            newer: tuple[Membership | None, SignalNews | None]
            newer = await actor_by_name(FLEET).sync.remote(known_epoch, known_signals)
        except (RayError, ValueError):
            return None, None
        return newer
