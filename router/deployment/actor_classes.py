"""The classes of a deployment's actors, as module:class: `dualmap up`, which starts them, imports none."""

FLEET_CLASS = "dualmap.router.fleet.actor:Fleet"
REBALANCER_CLASS = "dualmap.router.fleet.rebalancer:Rebalancer"
WATCHER_CLASS = "dualmap.instances.watcher.watcher:Watcher"
AUTOSCALER_CLASS = "dualmap.router.scaling.autoscaler:Autoscaler"
GATEWAY_CLASS = "dualmap.router.gateway.gateway_actor:GatewayActor"

IN_BACKGROUND = (FLEET_CLASS, REBALANCER_CLASS, AUTOSCALER_CLASS, WATCHER_CLASS)  # of one process
