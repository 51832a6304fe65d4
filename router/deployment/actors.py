"""Actors of a deployment, as `dualmap up` starts them and waits for them."""

from typing import Any

import ray

from dualmap.router.deployment.own_instances import NO_CPU

START_TIMEOUT_S = 120.0  # of an actor
STOP_TIMEOUT_S = 15.0


class ClusterError(Exception):
    """The deployment could not be started; the message says what and why, for the user to read."""


def told(error: Exception) -> str:
    """What happened, in a line: Ray's messages can hold the traceback of another process."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) or '  File "' in str(error) else 0].strip()


def start_actor(cls: type, name: str, *args: Any, **needs: Any) -> Any:
    """Restarted whenever it dies; a call that was under way is not repeated. Raises ClusterError."""
    options = {"name": name, **NO_CPU, **needs}
    try:
        return ray.remote(cls).options(**options).remote(*args)
    except ValueError as error:  # the name is taken
        raise ClusterError(f"another deployment runs on this Ray cluster: {error}") from None


def settle(calls: list[Any], timeout_s: float) -> None:
    """Wait for the calls; one that fails has nothing left to do."""
    ray.wait(calls, num_returns=len(calls), timeout=timeout_s) if calls else None


def is_done(call: Any) -> bool:
    """Waits for nothing."""
    return bool(ray.wait([call], timeout=0)[0])
