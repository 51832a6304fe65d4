import asyncio
import socket
import threading

import pytest

from dualmap.router.http import name_addresses
from dualmap.router.http.endpoint_connection import connect
from dualmap.router.http.name_addresses import addresses_of
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.conftest import WAIT_S

RESOLVE = socket.getaddrinfo


@pytest.fixture
def silent(monkeypatch):
    """Names that begin with `dead` are answered when this is set. asked: those that were asked for."""
    answers = threading.Event()
    answers.asked = []

    def getaddrinfo(host, *arguments, **more):
        answers.asked.append(host)
        if host.startswith("dead"):
            answers.wait(WAIT_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return RESOLVE("127.0.0.1" if host.startswith("good") else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers
    answers.set()


async def test_names_that_nobody_answers_for_hold_up_no_other(silent):
    async with asyncio.timeout(WAIT_S):
        dead = [asyncio.create_task(addresses_of(f"dead{number % 40}.example")) for number in range(200)]
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            endpoint = Endpoint("good.example", server.sockets[0].getsockname()[1])
            transport, _ = await connect(endpoint, asyncio.Protocol)
            transport.close()
        assert not any(task.done() for task in dead)
        assert len(silent.asked) == 41  # each once, however many wait for it
        silent.set()
        answers = await asyncio.gather(*dead, return_exceptions=True)
        assert {type(answer) for answer in answers} == {socket.gaierror}


async def test_who_gives_up_takes_no_answer_from_others(silent):
    first = asyncio.create_task(addresses_of("dead.example"))
    second = asyncio.create_task(addresses_of("dead.example"))
    await asyncio.sleep(0)
    first.cancel()
    silent.set()
    with pytest.raises(socket.gaierror):
        await second
    assert await addresses_of("good.example") == ["127.0.0.1"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0"])
async def test_an_address_is_not_asked_for(silent, address: str):
    assert await addresses_of(address) == [address]
    assert not silent.asked


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
async def test_what_can_be_no_name_is_unknown(host: str):
    with pytest.raises(socket.gaierror):
        await addresses_of(host)


async def test_each_address_of_a_name_is_tried(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **m: answers if host == "two" else RESOLVE(host, *a, **m)
    )
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        transport, _ = await connect(Endpoint("two", server.sockets[0].getsockname()[1]), asyncio.Protocol)
        transport.close()


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_a_host_is_where_it_was_while_dns_does_not_answer(silent, monkeypatch, hangs: bool):
    monkeypatch.setattr(name_addresses, "PATIENCE_S", 0.05 if hangs else WAIT_S)
    monkeypatch.setattr(name_addresses, "_known", {"dead.example": ["127.0.0.1"]})
    if not hangs:
        silent.set()
    assert await addresses_of("dead.example") == ["127.0.0.1"]
    assert silent.asked == ["dead.example"]
