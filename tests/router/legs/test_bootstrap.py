"""What is asked of a bootstrap server while connections to its instance come and go."""

import asyncio

from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.bootstrap import Bootstrap
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.conftest import Conversation, Instance

MOST = 20  # questions after each of which there is a new connection


async def test_who_waits_for_an_engine_waits_for_two_answers_however_many_connections_are_opened():
    loop = asyncio.get_running_loop()
    asked = 0

    async def answer(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        pool.opened += asked < MOST
        await conversation.send_json({"0": {"engine_id": f"engine {asked}"}})

    server = Instance(answer)
    await server.start()
    pool = UpstreamPool(loop, "prefill", Endpoint("127.0.0.1", 1), HttpLimits(), loop.time)
    bootstrap = Bootstrap(pool, server.port)
    await bootstrap.answer()
    assert bootstrap.engine_id == b'"engine 2"', "asked after the connection of who waits was opened"
    assert not bootstrap.is_known, "another connection is younger than that"
    while not bootstrap.is_known:
        await bootstrap.answer()
    assert (asked, bootstrap.engine_id) == (MOST, b'"engine 20"')
    server.stop()
