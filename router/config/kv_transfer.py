"""The section of a pool that says how computed prompts get from one instance to another."""

from typing import Literal, get_args

from pydantic import BaseModel, Field

from dualmap.router.config.strict import STRICT
from dualmap.router.legs.connector import Connector
from dualmap.router.legs.mooncake import BOOTSTRAP_PORT, Mooncake
from dualmap.router.legs.nixl import Nixl

NIXL = "nixl"
ConnectorName = Literal["nixl", "mooncake"]
CONNECTORS: tuple[ConnectorName, ...] = get_args(ConnectorName)


class KvTransfer(BaseModel):
    """How instances that compute prompts for others hand them over: what their servers' --kv-transfer-config says. It
    is of no concern where no instance has a role."""

    model_config = STRICT

    connector: ConnectorName = "nixl"  # vLLM's NixlConnector, or MooncakeConnector
    # Of mooncake: VLLM_MOONCAKE_BOOTSTRAP_PORT of the servers that compute prompts, but for those that name their own.
    bootstrap_port: int = Field(default=BOOTSTRAP_PORT, ge=1, le=65535)

    def made(self) -> Connector:
        """For one pool."""
        return Nixl() if self.connector == NIXL else Mooncake(self.bootstrap_port)
