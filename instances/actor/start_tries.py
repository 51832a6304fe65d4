"""What becomes of a server of ours that ended or did not start: whether it is waited for, and how long until the next
start."""

import time
from collections.abc import Callable

from dualmap.instances.server.reasons import start_failed, started_again
from dualmap.scheduler.fleet.member import MemberState

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between starts; the last one repeats
GIVEN_UP_STARTS = 3  # in a row that failed: nobody counts on it any more, though it is tried on


class StartTries:
    """Each answer is the state and its reason."""

    def __init__(self, start_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """start_timeout_s: what a start may take; one that needs longer in all its tries is counted on no more."""
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._failures = 0
        self._since = clock()

    @property
    def pause_s(self) -> float:
        """Until the next start."""
        return BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]

    def ended(self, why: str) -> tuple[MemberState, str]:
        """It was ready until now."""
        self._failures = 0
        self._since = self._clock()
        return MemberState.STARTING, started_again(why)

    def failed(self, why: str) -> tuple[MemberState, str]:
        self._failures += 1
        late = self._clock() - self._since >= self._start_timeout_s
        state = MemberState.LOST if late or self._failures >= GIVEN_UP_STARTS else MemberState.STARTING
        return state, start_failed(self._failures, why)
