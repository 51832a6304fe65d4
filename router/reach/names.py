"""What the actors of a deployment are called, and where their classes are: `dualmap up`, which starts them, imports
none."""

import importlib

NAMESPACE = "dualmap"  # of theirs, in a Ray cluster that has others
FLEET = "fleet"
REBALANCER = "rebalancer"
WATCHER = "watcher"

# module:class
FLEET_CLASS = "dualmap.router.fleet.actor:Fleet"
REBALANCER_CLASS = "dualmap.router.fleet.rebalancer:Rebalancer"
WATCHER_CLASS = "dualmap.instances.watcher.watcher:Watcher"
AUTOSCALER_CLASS = "dualmap.router.scaling.autoscaler:Autoscaler"
GATEWAY_CLASS = "dualmap.router.gateway.gateway_actor:GatewayActor"


def autoscaler_name(pool_name: str) -> str:
    return f"autoscaler-{pool_name}" if pool_name else "autoscaler"


def class_of(path: str) -> type:
    """path: module:class."""
    module, _, name = path.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
