"""Names that resolve as a test says, in every process that has this folder in PYTHONPATH: DUALMAP_TEST_HOSTS names a
file with lines as those of /etc/hosts, several for a name with several addresses. A name that is in no line is unknown
if it ends in .test, and else what the system says."""

import asyncio
import os
import socket
from functools import partial
from pathlib import Path

HOSTS = os.environ.get("DUALMAP_TEST_HOSTS", "")
RESOLVE = socket.getaddrinfo


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    name = host.decode() if isinstance(host, bytes) else host
    if not isinstance(name, str) or not name.endswith(".test"):
        return RESOLVE(host, port, family, type, proto, flags)
    lines = [line.split() for line in Path(HOSTS).read_text().splitlines()]
    addresses = [address for address, *names in filter(None, lines) if name in names]
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [found for address in addresses for found in RESOLVE(address, port, family, type, proto, flags)]


async def resolve_in_loop(loop, host, port, *, family=0, type=0, proto=0, flags=0):
    return await loop.run_in_executor(None, partial(getaddrinfo, host, port, family, type, proto, flags))


if HOSTS:
    socket.getaddrinfo = getaddrinfo
    asyncio.BaseEventLoop.getaddrinfo = resolve_in_loop
    try:
        import uvloop
    except ImportError:
        pass
    else:
        uvloop.Loop.getaddrinfo = resolve_in_loop
