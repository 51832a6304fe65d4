"""How instances and gateways reach Fleet. While it is away they go on with what they know."""

from typing import Any

from ray.exceptions import RayError

from router.membership import Member, Membership


class FleetClient:
    def __init__(self, fleet: Any) -> None:
        """fleet: the actor's handle; it stays good when the actor is restarted."""
        self._fleet = fleet

    async def report(self, member: Member) -> None:
        """Lost while Fleet is away: the next heartbeat says it again."""
        try:
            await self._fleet.report.remote(member)
        except RayError:
            return

    async def sync(self, known_epoch: int) -> Membership | None:
        """The membership if it is newer than the known epoch; None also while Fleet is away."""
        try:
            membership: Membership | None = await self._fleet.sync.remote(known_epoch)
        except RayError:
            return None
        return membership
