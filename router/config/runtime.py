"""Whether a deployment needs Ray: it places servers, and joins machines."""

from collections.abc import Iterator

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import Fault


def uses_ray(config: DualMapConfig) -> bool:
    return config.runtime == "ray" or (config.runtime == "auto" and bool(_reasons(config)))


def runtime_faults(config: DualMapConfig) -> Iterator[Fault]:
    """Where `runtime: local` cannot do what else is asked for."""
    if config.runtime == "local":
        for why in _reasons(config):
            yield Fault(("runtime",), f"{why}, which needs Ray: leave it out, or set it to auto", "local")


def _reasons(config: DualMapConfig) -> list[str]:
    reasons = ["ray_address names a Ray cluster"] if config.ray_address is not None else []
    if config.gateway.on_every_node:
        reasons.append("gateway.on_every_node asks for gateways on several nodes")
    for name, pool in config.all_pools().items():
        if pool.vllm.model or pool.simulate.count:
            reasons.append(f"{f'pool {name}' if name else 'the first pool'} starts servers")
    return reasons
