"""The configuration of a deployment: `dualmap up CONFIG.yaml`, or the same from flags. Every field has a default
that works; rules.py says which of them contradict each other."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dualmap.router.config.gateway_settings import GatewaySettings, LogSettings, TraceSettings
from dualmap.router.config.pool_settings import PoolSettings
from dualmap.router.http.limits import HttpLimits

PoolName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
DeploymentName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)]
ModelName = Annotated[str, Field(min_length=1, max_length=512)]


class DualMapConfig(PoolSettings):
    """Its own instances, if there are any, are the first pool; its name is empty."""

    # What it is called, where several deployments share a machine or a Ray cluster: commands choose it by this name.
    deployment: DeploymentName | None = None
    gateway: GatewaySettings = GatewaySettings()
    limits: HttpLimits = HttpLimits()  # what one client, request or instance may take of a gateway, and for how long
    pools: dict[PoolName, PoolSettings] = Field(default={})  # of further models, each under a name of its own
    # Names that clients may use, and the name by which instances serve the model: {gpt-4o: qwen-7b}.
    model_aliases: dict[ModelName, ModelName] = Field(default={})
    # What runs gateways and the actors behind them. auto: Ray where it starts servers or joins machines, else processes
    # of this machine; ray: Ray in any case; local: never Ray, which is an error where it is needed.
    runtime: Literal["auto", "ray", "local"] = "auto"
    # Of a running Ray cluster to join; None: one is started on this machine. ray://HOST:PORT: only gateways run here,
    # and join a deployment without any (gateway.count: 0) on that cluster, over the port where Ray lets clients in.
    ray_address: str | None = None
    # Of log files, also of servers that are started here: a folder for each start. `latest` leads to the last one.
    log_dir: Path = Path("runs/logs")
    logs: LogSettings = LogSettings()
    traces: TraceSettings | None = None  # None: no spans are made

    @property
    def joins(self) -> bool:
        """Whether all but the gateways is on another host."""
        return self.ray_address is not None and self.ray_address.startswith("ray://")

    def all_pools(self) -> dict[str, PoolSettings]:
        """By name, the first one first; one or more."""
        named: dict[str, PoolSettings] = ({} if self.is_empty else {"": self}) | self.pools
        pools = {name: pool.with_cold_start for name, pool in named.items()}
        if self.gateway.picker is None or self.gateway.picker.mode == "queued":
            return pools
        return {
            name: pool.model_copy(update={"scheduler": replace(pool.scheduler, gateway_queue=False)})
            for name, pool in pools.items()
        }
