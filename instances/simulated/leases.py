"""Blocks of requests that have ended, kept until another instance has read them, as vLLM's NixlConnector keeps them
(vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py). No IO and no clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from dualmap.instances.simulated.block_pool import Block, BlockPool

LEASE_S = 30.0  # vLLM's kv_lease_duration
EXTENSION_S = LEASE_S * 2 / 3  # of a lease that is asked for again
HEARTBEAT_S = LEASE_S / 6  # how often who waits for blocks asks


@dataclass(slots=True)
class _Lease:
    blocks: Sequence[Block]
    ends_s: float


class Leases:
    """Times in seconds on the caller's clock. lease_s: of those that begin."""

    def __init__(self, pool: BlockPool) -> None:
        self.lease_s = LEASE_S
        self._pool = pool
        self._leases: dict[str, _Lease] = {}  # by the id of the request that computed the blocks

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._leases

    def lend(self, request_id: str, blocks: Sequence[Block], now: float) -> None:
        """The blocks are held once, in the order of the prompt; they stay so until the lease ends. An earlier lease of
        the same request ends here."""
        self.give_back(request_id)
        self._leases[request_id] = _Lease(blocks, now + self.lease_s)

    def extend(self, request_id: str, now: float) -> bool:
        """False if there is no such lease any more."""
        lease = self._leases.get(request_id)
        if lease is not None:
            lease.ends_s = max(lease.ends_s, now + EXTENSION_S)
        return lease is not None

    def give_back(self, request_id: str) -> bool:
        """The blocks have been read. False if there is no such lease any more."""
        lease = self._leases.pop(request_id, None)
        if lease is not None:
            self._pool.release(lease.blocks)
        return lease is not None

    def expire(self, now: float) -> int:
        """How many leases have ended because their time is over."""
        over = [request_id for request_id, lease in self._leases.items() if lease.ends_s <= now]
        for request_id in over:
            self.give_back(request_id)
        return len(over)
