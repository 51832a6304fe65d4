import asyncio

import pytest

from dualmap.router.gateway.unless import unless


async def test_it_is_what_the_call_says_where_nothing_else_is_to_be_done():
    assert await unless(asyncio.sleep(0, "said"), asyncio.Event()) == "said"


@pytest.mark.parametrize("call", [asyncio.Event().wait, lambda: asyncio.sleep(0, "said")])
async def test_nobody_hears_a_call_once_there_is_something_to_do(call):
    events = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(unless(call(), *events))
    events[1].set()
    assert await waiting is None


async def test_a_call_ends_with_who_waits_for_it():
    ended = asyncio.Event()

    async def call() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(unless(call(), asyncio.Event()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await ended.wait()
