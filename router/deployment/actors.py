"""Actors of a deployment, as `dualmap up` waits for them, and what it says where they do not start."""

import time
from contextlib import suppress

from dualmap.router.reach.reach import Call, CallError

START_TIMEOUT_S = 120.0  # of an actor
STOP_TIMEOUT_S = 15.0
FORGET_TIMEOUT_S = 2.0  # until Fleet has heard that an instance is no more; it is told again


class ClusterError(Exception):
    """The deployment could not be started; the message says what and why, for the user to read."""


def told(error: Exception) -> str:
    """What happened, in a line: messages can hold the traceback of another process. One that was written for people
    stays as it is: the end of a server's log may look like a traceback, and is not the cause."""
    if isinstance(error, ClusterError):
        return str(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) or '  File "' in str(error) else 0].strip()


def settle(calls: list[Call], timeout_s: float) -> None:
    """Wait for the calls; one that fails has nothing left to do."""
    until = time.monotonic() + timeout_s
    for call in calls:
        with suppress(CallError):
            call.result(max(0.0, until - time.monotonic()))
