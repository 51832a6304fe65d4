"""Where a connection leads while DNS does not answer."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from dualmap.router.http import endpoint_connection
from dualmap.router.http.endpoint_connection import connect
from dualmap.scheduler.fleet.endpoint import Endpoint

HOST = "vllm.test"


class Names:
    """DNS. known: whether it answers."""

    known = True

    def getaddrinfo(self, host, port, **more):
        if not self.known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


@pytest.fixture
def names(monkeypatch) -> Names:
    monkeypatch.setattr(endpoint_connection, "_reached_at", {})
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


def run(names: Names, known: Callable[[int], bool], times: int) -> None:
    """Connect so often. known: whether DNS answers, by the number of the connection."""

    async def connect_again_and_again() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            for number in range(times):
                names.known = known(number)
                transport, _ = await connect(Endpoint(HOST, server.sockets[0].getsockname()[1]), asyncio.Protocol)
                transport.close()

    asyncio.run(connect_again_and_again())


def test_a_host_is_where_it_was_while_dns_does_not_answer(names):
    run(names, lambda number: number == 0, times=3)


def test_a_host_that_was_never_reached_is_not_known(names):
    with pytest.raises(socket.gaierror):
        run(names, lambda number: False, times=1)
