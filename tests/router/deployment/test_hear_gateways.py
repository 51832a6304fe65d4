"""When a Fleet that gateways of other hosts join has heard what they know."""

import pytest

from dualmap.router.deployment import hear_gateways as module
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.hear_gateways import have_told, hear_gateways
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState
from dualmap.scheduler.instance_capacity import InstanceCapacity

ENDPOINT = Endpoint("10.0.0.1", 8000)
MEMBERS = (Member("a", 1, ENDPOINT, state=MemberState.READY, capacity=InstanceCapacity()),)
GATEWAYS = (GatewayState("gateway-0", 1, "", age_s=0.0),)


def state(settled: bool = True, members: tuple[Member, ...] = (), gateways: tuple[GatewayState, ...] = ()):
    return FleetState(1, settled, members, gateways=gateways, loads={}, totals={})


@pytest.mark.parametrize(
    ("found", "waited_s", "joined_s", "told"),
    [
        (state(settled=False, members=MEMBERS), 5.0, 5.0, False),
        (state(members=MEMBERS), 5.0, 0.0, True),
        (state(), 30.0, 0.0, False),  # no gateway has come
        (state(), 61.0, 0.0, True),  # nor will one
        (state(gateways=GATEWAYS), 20.0, 5.0, False),  # the first knows nothing: another may
        (state(gateways=GATEWAYS), 20.0, 11.0, True),
    ],
)
def test_gateways_that_may_know_more_are_waited_for(found, waited_s, joined_s, told):
    assert have_told(found, waited_s, joined_s) is told


@pytest.fixture
def clock(monkeypatch):
    """Sleeping takes no time, and the clock goes on by it."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def test_a_fleet_that_is_away_for_a_moment_is_asked_again(clock):
    answers = iter([CallError("away"), state(gateways=GATEWAYS), CallError("away")])

    def ask() -> FleetState:
        answer = next(answers, state(members=MEMBERS, gateways=GATEWAYS))
        if isinstance(answer, CallError):
            raise answer
        return answer

    hear_gateways(ask)
    assert clock[0] < 1.0


def test_a_fleet_that_does_not_come_is_an_error_that_says_why(clock):
    def ask() -> FleetState:
        raise CallError("fleet cannot be started: no room")

    with pytest.raises(ClusterError, match="Fleet did not start: fleet cannot be started: no room"):
        hear_gateways(ask)
