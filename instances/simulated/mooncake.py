"""`kv_transfer_params` as vLLM's MooncakeConnector has them
(vllm/distributed/kv_transfer/kv_connector/v1/mooncake/mooncake_connector.py).

Both legs of a request name its transfer, and who reads names the engine that computes; no answer says anything of it. A
bootstrap server tells where the engine is found. Who asks for a transfer that is not there waits for it.
"""

from dataclasses import dataclass
from typing import Any

from dualmap.instances.simulated.kv_transfer import ENGINE_ENDED, KvSide, Nowhere, Transfer, place_in
from dualmap.router.http.openai_errors import RequestRefusedError
from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.role import Role

BOOTSTRAP_PORT = 8998  # VLLM_MOONCAKE_BOOTSTRAP_PORT
TIMEOUT_S = 480.0  # VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT
_OTHERS_WORK = {Role.PREFILL: "do_remote_prefill", Role.DECODE: "do_remote_decode"}


@dataclass(slots=True)
class MooncakeSide(KvSide):
    """lease_s: for how long a computed prompt waits to be asked for, and a reader for a prompt."""

    lease_s: float = TIMEOUT_S

    def lends(self, params: dict[str, Any] | None) -> bool:
        return KvSide.lends(self, params) and bool(params and params.get("transfer_id"))

    def source(self, params: dict[str, Any] | None) -> Transfer | Nowhere | None:
        asked = params or {}
        if self.role is not Role.BOTH and asked.get(_OTHERS_WORK[self.role]):
            raise RequestRefusedError(ENGINE_ENDED)
        return place_in(asked, Transfer("", "", "")) if asked.get("do_remote_prefill") else None

    def lease_name(self, request_id: str, params: dict[str, Any] | None) -> str:
        return str(params["transfer_id"]) if params else request_id

    def lent(self, request_id: str, blocks: int, prompt_tokens: int, cached_tokens: int) -> None:
        """Nothing."""

    def worker(self) -> dict[str, Any]:
        """As the bootstrap server tells of it: vLLM has a socket of its own there, simulated servers their port."""
        return {"engine_id": self.engine_id, "worker_addr": {"0": {"0": f"tcp://{host_port(self.host, self.port)}"}}}
