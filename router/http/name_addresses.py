"""The addresses of a host's name. A name whose servers do not answer holds up one thread and nobody who asks for
another: the event loop's own threads are few."""

import asyncio
import socket
import threading
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

PATIENCE_S = 1.0  # with DNS, where a host's addresses are known from before

_known: dict[str, list[str]] = {}  # the last answer, by host
_under_way: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[list[str]]] = {}


async def addresses_of(host: str) -> list[str]:
    """In the order in which they are to be tried, one at least. While DNS does not answer, those of before. Raises
    OSError. No time-out, where there are none."""
    with suppress(ValueError):
        ip_address(host)
        return [host]
    loop = asyncio.get_running_loop()
    answer = _under_way.get((loop, host))
    if answer is None:
        answer = _under_way[loop, host] = loop.create_future()
        answer.add_done_callback(lambda done: (_under_way.pop((loop, host)), done.exception()))
        threading.Thread(target=_look_up, args=(loop, host, answer), name="name", daemon=True).start()
    try:
        async with asyncio.timeout(PATIENCE_S if host in _known else None):
            _known[host] = await asyncio.shield(answer)
    except OSError:  # TimeoutError is one
        if host not in _known:
            raise
    return list(_known[host])


def _look_up(loop: asyncio.AbstractEventLoop, host: str, answer: asyncio.Future[list[str]]) -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        tell = partial(answer.set_result, list(dict.fromkeys(str(address[0]) for *_, address in found)))
    except UnicodeError:  # a name that is too long, or has an empty part
        tell = partial(answer.set_exception, socket.gaierror(socket.EAI_NONAME, "no name"))
    except OSError as error:
        tell = partial(answer.set_exception, error)
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)
