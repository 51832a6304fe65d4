"""How instances and gateways reach Fleet. While it is away they go on with what they know."""

from ray.exceptions import RayError

from router.actor_by_name import FLEET, actor_by_name
from router.membership import Member, Membership


class FleetClient:
    async def report(self, member: Member) -> None:
        """Lost while Fleet is away: the next heartbeat says it again."""
        try:
            await actor_by_name(FLEET).report.remote(member)
        except (RayError, ValueError):
            return

    async def sync(self, known_epoch: int) -> Membership | None:
        """The membership if it is newer than the known epoch; None also while Fleet is away."""
        try:
            membership: Membership | None = await actor_by_name(FLEET).sync.remote(known_epoch)
        except (RayError, ValueError):
            return None
        return membership
