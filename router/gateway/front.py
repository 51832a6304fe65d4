"""Where a gateway's requests come from: its own HTTP port, or a proxy that asks its picker."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.listen import listen, listening_port
from dualmap.router.http.tls import TlsFiles
from dualmap.router.requests.service import RequestService
from dualmap.scheduler.fleet.member import Membership

RENEW_S = 10.0  # how soon a renewed certificate is used


class Front(Protocol):
    limits: HttpLimits

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        """Port 0 takes a free one. Raises OSError if it is taken."""
        ...

    @property
    def port(self) -> int:
        """That it listens on."""
        ...

    def apply_membership(self, membership: Membership) -> None: ...

    def close(self) -> None:
        """Take no new connections."""
        ...

    async def abort(self) -> None:
        """Drop those there are; after `close`."""
        ...


class HttpFront:
    """OpenAI's API on a port of our own. limits: of connections to come. tls: None: plain text."""

    def __init__(
        self, service: RequestService, limits: HttpLimits, clock: Callable[[], float], tls: TlsFiles | None = None
    ) -> None:
        self._service = service
        self.limits = limits
        self._clock = clock
        self._tls = tls
        self._renewing: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int, reuse_port: bool) -> None:
        self._server = await listen(
            lambda: ClientConnection(self._service, self.limits, self._clock),
            host,
            port,
            reuse_port=reuse_port,
            tls=None if self._tls is None else self._tls.context,
        )
        if self._tls is not None:
            self._renew(self._tls)

    @property
    def port(self) -> int:
        return listening_port(self._server)

    def apply_membership(self, membership: Membership) -> None:
        """The gateway knows where instances are."""

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._renewing is not None:
            self._renewing.cancel()

    async def abort(self) -> None:
        self._service.abort()

    def _renew(self, tls: TlsFiles) -> None:
        tls.renew()
        self._renewing = asyncio.get_running_loop().call_later(RENEW_S, self._renew, tls)
