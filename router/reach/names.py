"""What the actors of a deployment are called."""

import importlib

NAMESPACE = "dualmap"  # of theirs, in a Ray cluster that has others
BACKGROUND = "background"  # the process of Fleet, Rebalancer, Autoscalers and Watcher
FLEET = "fleet"
REBALANCER = "rebalancer"
WATCHER = "watcher"


def autoscaler_name(pool_name: str) -> str:
    return f"autoscaler-{pool_name}" if pool_name else "autoscaler"


def class_of(path: str) -> type:
    """path: module:class."""
    module, _, name = path.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
