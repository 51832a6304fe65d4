"""Listening for connections of clients."""

import asyncio
import socket
import ssl
from collections.abc import Callable

BACKLOG = 1024  # a burst of new connections while a step of the loop runs
ANY_FAMILY = "::"


async def listen(
    factory: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    *,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Port 0 takes a free one. At `::` IPv4 is served as well, which asyncio alone would not do. Raises OSError."""
    loop = asyncio.get_running_loop()
    if host != ANY_FAMILY or not socket.has_dualstack_ipv6():
        return await loop.create_server(factory, host, port, reuse_port=reuse_port, backlog=BACKLOG, ssl=tls)
    sock = socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=True
    )
    sock.setblocking(False)
    return await loop.create_server(factory, sock=sock, backlog=BACKLOG, ssl=tls)


def listening_port(server: asyncio.Server | None) -> int:
    """The port a started server listens on."""
    assert server is not None, "not started"
    port: int = server.sockets[0].getsockname()[1]
    return port
