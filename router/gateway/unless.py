"""A call that is waited for only while nothing else is to be done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless(call: Coroutine[Any, Any, T], *events: asyncio.Event) -> T | None:
    """None once one of the events is set: then nobody hears what the call says, even if it is there."""
    called = asyncio.ensure_future(call)
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait((called, *waits), return_when=asyncio.FIRST_COMPLETED)
        return None if any(event.is_set() for event in events) else called.result()
    finally:
        for task in (called, *waits):
            task.cancel()
