"""How clients' connections end where another gateway has taken this one's place."""

import asyncio

from dualmap.router.requests.service import RequestService

ACCEPTED_S = 1.0  # until what was accepted last has shaken hands and counts as a connection
IDLE_S = 5.0  # a request of a connection that was idle for so long is hardly on its way
POLL_S = 0.1


async def all_left(service: RequestService) -> None:
    """Each connection ends with its next answer, or once it is idle for long enough. Returns when there is none."""
    service.leaving = True
    await asyncio.sleep(ACCEPTED_S)
    while service.clients:
        await asyncio.sleep(POLL_S)
        service.close_idle(IDLE_S)
