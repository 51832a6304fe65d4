"""What a gateway makes of what it hears of the others."""

from dualmap.router.gateway.fleet_seen import FEWER_S, FleetSeen
from dualmap.scheduler.fleet.messages import GatewayState


def gateways(count: int) -> tuple[GatewayState, ...]:
    return tuple(GatewayState(f"gateway-{number}", 1, "", age_s=0.1) for number in range(count))


def test_a_fleet_that_has_just_been_started_takes_nobody_away():
    seen = FleetSeen()
    seen.note(gateways(3), (), now=1.0)
    seen.note((), (), now=2.0)
    assert (len(seen.serving), seen.sharing, seen.heard_at) == (3, 3, 2.0)


def test_limits_are_shared_by_more_at_once_and_by_fewer_only_after_a_while():
    seen = FleetSeen()
    assert seen.sharing == 1
    seen.note(gateways(2), (), now=1.0)
    assert seen.sharing == 2
    seen.note(gateways(4), (), now=2.0)
    assert seen.sharing == 4
    seen.note(gateways(1), (), now=3.0)  # the first call of a Fleet that has been started again
    assert (len(seen.serving), seen.sharing) == (1, 4)
    seen.note(gateways(4), (), now=4.0)
    seen.note(gateways(3), (), now=4.0 + FEWER_S - 0.1)
    assert seen.sharing == 4
    seen.note(gateways(3), (), now=4.0 + FEWER_S)
    assert seen.sharing == 3
