"""What a gateway has last heard of Fleet about the gateways, itself among them, and about scaling."""

from dualmap.scheduler.fleet.messages import GatewayState, PoolPlan


class FleetSeen:
    """peers: all gateways. plans: what the Autoscalers plan. heard_at: None: there is no Fleet."""

    def __init__(self) -> None:
        self.peers: tuple[GatewayState, ...] = ()
        self.plans: tuple[PoolPlan, ...] = ()
        self.heard_at: float | None = None

    def note(self, peers: tuple[GatewayState, ...], plans: tuple[PoolPlan, ...], now: float) -> None:
        self.peers = peers
        self.plans = plans
        self.heard_at = now

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
