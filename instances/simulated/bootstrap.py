"""The bootstrap server beside a simulated server that lends prompts, as vLLM's MooncakeConnector has one
(vllm/distributed/kv_transfer/kv_connector/v1/mooncake/mooncake_utils.py)."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from dualmap.instances.simulated.kv_transfer import QUERY_PATH, KvSide
from dualmap.instances.simulated.listener import BACKLOG, Listener
from dualmap.instances.simulated.mooncake import MooncakeSide
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.local_answers import json_response
from dualmap.router.http.openai_errors import HttpError, unknown_path, wrong_method


class BootstrapServer:
    """sides: of the server's engines, by rank."""

    def __init__(self, sides: Sequence[KvSide]) -> None:
        self.clients: set[ClientConnection] = set()
        self._sides = sides
        self._limits = HttpLimits(idle_timeout_s=5.0)
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError if it is taken."""
        sock = Listener(host, port).bind()
        loop: Any = asyncio.get_running_loop()  # its stubs ask for a subclass of Protocol
        self._server = await loop.create_server(
            lambda: ClientConnection(self, self._limits, time.monotonic), sock=sock, backlog=BACKLOG
        )
        return int(sock.getsockname()[1])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in self.clients:
            client.transport.close()

    # HttpService.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        if request.path != QUERY_PATH:
            return unknown_path(request.path)
        return None if request.method == "GET" else wrong_method(request.method, request.path, "GET")

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        engines = {str(rank): side.worker() for rank, side in enumerate(self._sides) if isinstance(side, MooncakeSide)}
        client.answer(json_response(msgspec.json.encode(engines), close=request.close), close=request.close)

    def refused(self, error: HttpError) -> None:
        """Nobody counts these."""
