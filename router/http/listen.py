"""Listening for connections of clients."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import cast

BACKLOG = 1024  # a burst of new connections while a step of the loop runs
ANY_FAMILY = "::"


async def listen(
    factory: Callable[[], object],
    host: str,
    port: int,
    *,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Port 0 takes a free one. At `::` IPv4 is served as well, which asyncio alone would not do. Raises OSError.
    factory: see connect."""
    if host != ANY_FAMILY or not socket.has_dualstack_ipv6():
        loop, made = asyncio.get_running_loop(), _as_protocols(factory)
        return await loop.create_server(made, host, port, reuse_port=reuse_port, backlog=BACKLOG, ssl=tls)
    sock = socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=True
    )
    return await listen_on(sock, factory, tls)


async def listen_on(sock: socket.socket, factory: Callable[[], object], tls: ssl.SSLContext | None) -> asyncio.Server:
    """sock: bound, or listening already."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    return await loop.create_server(_as_protocols(factory), sock=sock, backlog=BACKLOG, ssl=tls)


def _as_protocols(factory: Callable[[], object]) -> Callable[[], asyncio.Protocol]:
    """The stubs of loops ask for a subclass."""
    return cast("Callable[[], asyncio.Protocol]", factory)


class Listeners:
    """What listens on one port: of several families of addresses where its host has them."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._port = 0

    async def open(
        self,
        factory: Callable[[], object],
        host: str,
        port: int,
        *,
        reuse_port: bool = False,
        tls: ssl.SSLContext | None = None,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        """inherited: of a process before this one, which listen already; host and port are theirs. Raises OSError."""
        if not inherited:
            self._servers = [await listen(factory, host, port, reuse_port=reuse_port, tls=tls)]
        for sock in inherited:
            self._servers.append(await listen_on(sock, factory, tls))
        self._port = listening_port(self._servers[0])

    @property
    def port(self) -> int:
        """Also once they are closed."""
        assert self._port, "not open yet"
        return self._port

    @property
    def filenos(self) -> list[int]:
        return [sock.fileno() for server in self._servers for sock in server.sockets]

    def close(self) -> None:
        """What waits to be accepted is reset, unless another process listens there, too."""
        for server in self._servers:
            server.close()


def listening_port(server: asyncio.Server) -> int:
    """The port a started server listens on."""
    port: int = server.sockets[0].getsockname()[1]
    return port
