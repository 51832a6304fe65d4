"""What the bootstrap server of an instance says of its engine, as vLLM's MooncakeConnector starts one beside the API
(vllm/distributed/kv_transfer/kv_connector/v1/mooncake/mooncake_utils.py)."""

import asyncio

import msgspec

from dualmap.instances.server.server_client import get_once
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.engine_table import decode_engines
from dualmap.scheduler.fleet.endpoint import Endpoint, host_port

TIMEOUT_S = 5.0


class Bootstrap:
    """Asked once, and again when there is a connection to the instance that is younger than the answer: another process
    may listen there since then, with an engine of another name. Whoever waits for a prompt of the old one's would wait
    for minutes.

    pool: of connections to the instance. address: as other servers reach it. engine_id: as JSON; empty where it is not
    known. trouble: why not.
    """

    def __init__(self, pool: UpstreamPool, port: int) -> None:
        """port: where the endpoint names none."""
        endpoint = pool.endpoint
        self.pool = pool
        self.engine_id = b""
        self.trouble = ""
        self._place = Endpoint(endpoint.host, endpoint.bootstrap_port or port)
        self.address = f"http://{host_port(self._place.host, self._place.port)}".encode()
        self._connections = 0  # that had been opened when it was asked last
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_known(self) -> bool:
        """Nothing has to be asked, and no answer is awaited."""
        return bool(self.engine_id) and self._asking is None

    def look(self) -> None:
        """Ask it, if what is known may be of another process."""
        if self._asking is None and self._connections != self.pool.opened:
            self._ask()

    async def answer(self) -> None:
        """Have it asked, if nothing is known, and wait until it is known who listens there: who answers the second
        question was asked it after this call. There may always be a next one, where connections are not kept."""
        if self._asking is None and not self.engine_id:
            self._ask()
        for _ in range(2):
            if self._asking is not None:
                await asyncio.shield(self._asking)

    def _ask(self) -> None:
        self._connections = self.pool.opened
        self._asking = asyncio.get_running_loop().create_task(self._query())

    async def _query(self) -> None:
        said = None
        try:
            if self._place.host:  # none of a socket
                said = await get_once(self._place, "/query", TIMEOUT_S)
        finally:
            self.engine_id = self._engine_in(said)
            self._asking = None
        self.look()

    def _engine_in(self, said: bytes | None) -> bytes:
        """Empty, and `trouble` says why, where it is not told."""
        where = f"its bootstrap server at {self.address.decode()}"
        if said is None:
            self.trouble = f"{where} does not answer: is its server started with MooncakeConnector, for that port?"
            return b""
        try:
            engines = decode_engines(said)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.trouble = f"{where} answers something else than a bootstrap server of MooncakeConnector"
            return b""
        rank = self.pool.endpoint.rank
        if rank is None and len(engines) > 1:
            self.trouble = (
                f"{where} names {len(engines)} engines: make each rank an instance, as URL@0..{len(engines) - 1}"
            )
            return b""
        named = engines.get(str(rank or 0))
        if named is None:
            self.trouble = f"{where} names no engine of rank {rank or 0}"
            return b""
        return msgspec.json.encode(named.engine_id)
