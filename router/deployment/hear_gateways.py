"""Before a Fleet that gateways of other hosts join has its servers watched, they tell it what they know: they may have
served with a Fleet before it. Servers are then watched from where that one left off, and what runs there runs on."""

import time
from collections.abc import Callable

from dualmap.router.deployment.actors import START_TIMEOUT_S, ClusterError, told
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.fleet.messages import FleetState

POLL_S = 0.1
OTHERS_S = 10.0  # from the first gateway on, which knows nothing: those that do have waited for longer to join
ALL_S = 60.0  # there may be no gateway yet


def hear_gateways(fleet_state: Callable[[], FleetState]) -> None:
    """Returns once they have told, or none will. fleet_state: asks Fleet, raises CallError. Raises ClusterError."""
    begun = time.monotonic()
    first: float | None = None
    while True:
        now = time.monotonic()
        try:
            state = fleet_state()
        except CallError as error:
            if now - begun > START_TIMEOUT_S:
                raise ClusterError(f"Fleet did not start: {told(error)}") from None
        else:
            if first is None and state.gateways:
                first = now
            if have_told(state, now - begun, 0.0 if first is None else now - first):
                return
        time.sleep(POLL_S)


def have_told(state: FleetState, waited_s: float, joined_s: float) -> bool:
    """joined_s: since the first of them has."""
    return state.settled and (bool(state.members) or joined_s > OTHERS_S or waited_s > ALL_S)
