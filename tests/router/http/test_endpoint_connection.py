"""Where a connection leads while DNS does not answer."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from dualmap.router.http import endpoint_connection
from dualmap.router.http.endpoint_connection import connect
from dualmap.scheduler.fleet.endpoint import Endpoint

HOST = "vllm.test"


class Names(asyncio.SelectorEventLoop):
    """DNS, as far as this loop asks it. known: whether it answers."""

    known = True

    async def getaddrinfo(self, host, port, **more):
        if not self.known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture(autouse=True)
def nothing_reached(monkeypatch):
    monkeypatch.setattr(endpoint_connection, "_reached_at", {})


def run(known: Callable[[int], bool], times: int) -> None:
    """Connect so often. known: whether DNS answers, by the number of the connection."""

    async def connect_again_and_again() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            for number in range(times):
                Names.known = known(number)
                transport, _ = await connect(Endpoint(HOST, server.sockets[0].getsockname()[1]), asyncio.Protocol)
                transport.close()

    with asyncio.Runner(loop_factory=Names) as runner:
        runner.run(connect_again_and_again())


def test_a_host_is_where_it_was_while_dns_does_not_answer():
    run(lambda number: number == 0, times=3)


def test_a_host_that_was_never_reached_is_not_known():
    with pytest.raises(socket.gaierror):
        run(lambda number: False, times=1)
