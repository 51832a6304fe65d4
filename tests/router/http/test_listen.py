"""listen.py: with sockets of both families of addresses."""

import asyncio

import pytest

from dualmap.router.http.listen import listen, listening_port


@pytest.mark.parametrize(
    ("host", "reached"), [("::", ["127.0.0.1", "::1"]), ("::1", ["::1"]), ("0.0.0.0", ["127.0.0.1"])]
)
async def test_all_addresses_are_those_of_both_families(host, reached):
    server = await listen(asyncio.Protocol, host, 0)
    found = []
    for address in ("127.0.0.1", "::1"):
        try:
            _, writer = await asyncio.open_connection(address, listening_port(server))
        except ConnectionError:
            continue
        writer.close()
        found.append(address)
    server.close()
    assert found == reached


async def test_gateways_can_share_a_port_at_all_addresses():
    first = await listen(asyncio.Protocol, "::", 0, reuse_port=True)
    second = await listen(asyncio.Protocol, "::", listening_port(first), reuse_port=True)
    with pytest.raises(OSError, match="in use"):
        await listen(asyncio.Protocol, "0.0.0.0", listening_port(first))
    first.close()
    second.close()
