"""`kv_transfer_params` of requests and answers, as vLLM's NixlConnector has them
(vllm/distributed/kv_transfer/kv_connector/v1/nixl/pull_scheduler.py).

A request with do_remote_decode is computed here to be decoded elsewhere: its blocks are lent, and its answer tells
where they are. One with do_remote_prefill reads its prompt's blocks from there.
"""

import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from dualmap.instances.simulated.leases import LEASE_S
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError
from dualmap.scheduler.role import Role

QUERY_PATH = "/query"  # of a bootstrap server
HOLD_PATH, RELEASE_PATH = "/kv_transfer/hold", "/kv_transfer/release"  # where vLLM has a port and messages of its own
# vLLM's answer as its engine ends, and the server with it: a simulated one lives on, and refuses that request alone.
ENGINE_ENDED = HttpError(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "InternalServerError",
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
)


class Source(msgspec.Struct, frozen=True):
    """Where a prompt's blocks are. remote_prefill_cached_tokens: of the prompt, what its instance had not to compute;
    None: not told."""

    remote_host: str
    remote_port: int
    remote_engine_id: str
    remote_request_id: str
    remote_prefill_cached_tokens: int | None = None


class Transfer(msgspec.Struct, frozen=True):
    """The same with MooncakeConnector: what the reader is told of a prompt that is computed elsewhere, or will be."""

    transfer_id: str
    remote_bootstrap_addr: str
    remote_engine_id: str
    remote_prefill_cached_tokens: int | None = None


class Nowhere(msgspec.Struct, frozen=True):
    """What lacks a field of these. vLLM 0.32 logs "Got invalid KVTransferParams", and the request, whose prompt is not
    computed, waits until its client leaves."""

    remote_prefill_cached_tokens: int | None = None


Place = TypeVar("Place", Source, Transfer)


def place_in(params: dict[str, Any], nobody: Place) -> Place | Nowhere:
    """nobody: in place of what has all fields, some of a type that makes its reading fail: vLLM looks whether they are
    there, not what they are."""
    try:
        return msgspec.convert(params, type(nobody))
    except msgspec.ValidationError:
        required = (field.name for field in msgspec.structs.fields(nobody) if field.required)
        return nobody if all(name in params for name in required) else Nowhere()


class EngineEntry(msgspec.Struct):
    """As a bootstrap server tells of it. worker_addr: by tensor-parallel and pipeline-parallel rank."""

    engine_id: str
    worker_addr: dict[str, dict[str, str]]


class LeaseCall(msgspec.Struct, frozen=True):
    """Of a lease, as the reader asks the lender to hold it or to end it. request_id: what the reader calls it."""

    engine_id: str
    request_id: str


@dataclass(slots=True)
class KvSide:
    """One server's side of transfers. role: prefill lends only, decode reads only, both does both. host, port: where
    others reach the server. engine_id: another one with each start. lease_s: for how long blocks are kept, unless who
    is to read them asks again."""

    role: Role = Role.BOTH
    host: str = "127.0.0.1"
    port: int = 0
    engine_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    lease_s: float = LEASE_S

    def lends(self, params: dict[str, Any] | None) -> bool:
        return params is not None and self.role is not Role.DECODE and bool(params.get("do_remote_decode"))

    def source(self, params: dict[str, Any] | None) -> Source | Transfer | Nowhere | None:
        """None: the prompt is computed here. Raises RequestRefusedError where vLLM's engine would end."""
        if not params or self.role is Role.PREFILL or not params.get("do_remote_prefill"):
            return None
        if not params.get("remote_block_ids"):
            raise RequestRefusedError(ENGINE_ENDED)
        return place_in(params, Source("", 0, "", ""))

    def lease_name(self, request_id: str, params: dict[str, Any] | None) -> str:
        """What the reader calls the lease. params: of the request that is lent."""
        return request_id

    def lent(self, request_id: str, blocks: int, prompt_tokens: int, cached_tokens: int) -> dict[str, Any] | None:
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
