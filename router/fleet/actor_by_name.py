"""Handles of named actors, looked up where they are used: one handed over would tie a restart to its giver."""

from functools import cache
from typing import Any

import ray

NAMESPACE = "dualmap"
FLEET = "fleet"
REBALANCER = "rebalancer"
WATCHER = "watcher"


def autoscaler_name(pool_name: str) -> str:
    return f"autoscaler-{pool_name}" if pool_name else "autoscaler"


@cache
def actor_by_name(name: str) -> Any:
    """The handle stays good when the actor is restarted. Raises ValueError if there is no such actor."""
    return ray.get_actor(name, namespace=NAMESPACE)
