"""What a gateway has last heard of Fleet about the gateways, itself among them, and about scaling."""

from dualmap.scheduler.fleet.messages import GatewayState, PoolPlan

FEWER_S = 10.0  # the first calls of a Fleet that has been started again are not yet of all gateways


class FleetSeen:
    """peers: all gateways. plans: what the Autoscalers plan. heard_at: None: there is no Fleet. sharing: so many share
    what is granted once for all; fewer only once there have been fewer for a while."""

    def __init__(self) -> None:
        self.sharing = 1
        self._fewer_from = 0.0
        self.peers: tuple[GatewayState, ...] = ()
        self.plans: tuple[PoolPlan, ...] = ()
        self.heard_at: float | None = None

    def note(self, peers: tuple[GatewayState, ...], plans: tuple[PoolPlan, ...], now: float) -> None:
        self.heard_at = now
        if not peers:  # a Fleet that has just been started says nothing yet
            return
        self.peers = peers
        self.plans = plans
        if len(self.serving) >= self.sharing or now >= self._fewer_from:
            self.sharing = max(1, len(self.serving))
            self._fewer_from = now + FEWER_S

    @property
    def serving(self) -> tuple[str, ...]:
        """Gateways that take requests, by id."""
        return tuple(peer.gateway_id for peer in self.peers if not peer.leaving)

    def gauges(self, now: float) -> dict[str, tuple[str, float]]:
        """Documentation and value, by name."""
        if self.heard_at is None:
            return {}
        return {
            "fleet_silence_seconds": ("Since Fleet last answered this gateway.", now - self.heard_at),
            "gateways": ("Gateways that take requests, as Fleet knows them.", len(self.serving)),
        }
