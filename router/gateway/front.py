"""Where a gateway's requests come from: its own HTTP port, or a proxy that asks its picker."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.listen import Listeners
from dualmap.router.http.tls import TlsFiles
from dualmap.router.requests.service import RequestService
from dualmap.scheduler.fleet.member import Membership

RENEW_S = 10.0  # how soon a renewed certificate is used


class Front(Protocol):
    limits: HttpLimits

    async def listen(self, host: str, port: int, reuse_port: bool, inherited: Sequence[socket.socket] = ()) -> None:
        """Port 0 takes a free one. inherited: see Listeners. Raises OSError if it is taken."""
        ...

    @property
    def filenos(self) -> Sequence[int]:
        """Of what listens; empty where it cannot be handed over."""
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
        self._listeners = Listeners()

    async def listen(self, host: str, port: int, reuse_port: bool, inherited: Sequence[socket.socket] = ()) -> None:
        await self._listeners.open(
            lambda: ClientConnection(self._service, self.limits, self._clock),
            host,
            port,
            reuse_port=reuse_port,
            tls=None if self._tls is None else self._tls.context,
            inherited=inherited,
        )
        if self._tls is not None:
            self._renew(self._tls)

    @property
    def port(self) -> int:
        return self._listeners.port

    @property
    def filenos(self) -> Sequence[int]:
        return self._listeners.filenos

    def apply_membership(self, membership: Membership) -> None:
        """The gateway knows where instances are."""

    def close(self) -> None:
        self._listeners.close()
        if self._renewing is not None:
            self._renewing.cancel()

    async def abort(self) -> None:
        self._service.abort()

    def _renew(self, tls: TlsFiles) -> None:
        tls.renew()
        self._renewing = asyncio.get_running_loop().call_later(RENEW_S, self._renew, tls)
