"""Whether a deployment needs Ray: it places servers, and joins machines."""

import re
from collections.abc import Iterator

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import Fault


def uses_ray(config: DualMapConfig) -> bool:
    if config.joins:
        return False  # but for the one process that is Ray's client
    return config.runtime == "ray" or (config.runtime == "auto" and bool(_reasons(config)))


def runtime_faults(config: DualMapConfig) -> Iterator[Fault]:
    """Where `runtime` cannot do what else is asked for, and where no gateway would be found."""
    if config.runtime == "local":
        for why in _reasons(config):
            yield Fault(("runtime",), f"{why}, which needs Ray: leave it out, or set it to auto", "local")
    gateway = config.gateway
    if config.joins:
        if re.fullmatch(r"ray://.+:[0-9]+", config.ray_address or "") is None:
            yield Fault(
                ("ray_address",), "is ray://HOST:PORT, or the address of a Ray cluster", str(config.ray_address)
            )
        if config.runtime == "ray" or gateway.on_every_node:
            rule = "gateways that join over ray:// are processes of this machine: no runtime: ray, no on_every_node"
            yield Fault(("ray_address",), rule, str(config.ray_address))
        if gateway.count == 0:
            yield Fault(("gateway", "count"), "gateways only run where ray_address is ray://: there is none", "0")
    elif gateway.count == 0 and config.ray_address is None:
        rule = "without gateways here, others have to join: ray_address must name the Ray cluster where"
        yield Fault(("gateway", "count"), rule, "0")


def _reasons(config: DualMapConfig) -> list[str]:
    reasons = ["ray_address names a Ray cluster"] if config.ray_address is not None else []
    if config.gateway.on_every_node:
        reasons.append("gateway.on_every_node asks for gateways on several nodes")
    for name, pool in config.all_pools().items():
        if pool.replicas:
            reasons.append(f"{f'pool {name}' if name else 'the first pool'} starts servers")
    return reasons
