"""`kv_transfer_params` of requests and answers, as vLLM's NixlConnector has them
(vllm/distributed/kv_transfer/kv_connector/v1/nixl/pull_scheduler.py).

A request with do_remote_decode is computed here to be decoded elsewhere: its blocks are lent, and its answer tells
where they are. One with do_remote_prefill reads its prompt's blocks from there.
"""

import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dualmap.router.http.openai_errors import RequestRefusedError, bad_request
from dualmap.scheduler.role import Role

HOLD_PATH, RELEASE_PATH = "/kv_transfer/hold", "/kv_transfer/release"  # where vLLM has a port and messages of its own


class Source(msgspec.Struct, frozen=True):
    """Where a prompt's blocks are. remote_prefill_cached_tokens: of the prompt, what its instance had not to compute;
    None: not told."""

    remote_host: str
    remote_port: int
    remote_engine_id: str
    remote_request_id: str
    remote_prefill_cached_tokens: int | None = None


class LeaseCall(msgspec.Struct, frozen=True):
    """Of a lease, as the reader asks the lender to hold it or to end it."""

    engine_id: str
    request_id: str


@dataclass(slots=True)
class KvSide:
    """One server's side of transfers. role: prefill lends only, decode reads only, both does both. host, port: where
    others reach the server. engine_id: another one with each start."""

    role: Role = Role.BOTH
    host: str = "127.0.0.1"
    port: int = 0
    engine_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def lends(self, params: dict[str, Any] | None) -> bool:
        return params is not None and self.role is not Role.DECODE and bool(params.get("do_remote_decode"))

    def source(self, params: dict[str, Any] | None) -> Source | None:
        """None: the prompt is computed here. Raises RequestRefusedError if the params do not say where to read: vLLM
        would wait for ever, or end."""
        if not params or self.role is Role.PREFILL or not params.get("do_remote_prefill"):
            return None
        try:
            return msgspec.convert(params, Source)
        except msgspec.ValidationError as error:
            raise RequestRefusedError(bad_request(f"kv_transfer_params: {error}.", "kv_transfer_params")) from None

    def lent(self, request_id: str, blocks: int, prompt_tokens: int, cached_tokens: int) -> dict[str, Any]:
        """What the answer says of blocks that are lent. Blocks have no numbers here, so the ids only count them."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, blocks + 1))],
            "remote_engine_id": self.engine_id,
            "remote_request_id": request_id,
            "remote_host": self.host,
            "remote_port": self.port,
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": prompt_tokens,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
            "remote_prefill_cached_tokens": cached_tokens,
        }
