"""Those who call this process over its socket."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from dualmap.router.local.frames import Frame, FrameError, frame, greet, read_frame

logger = logging.getLogger(__name__)

Answer = Callable[[bytes], Awaitable[tuple[bytes, bool]]]  # see Host


class Callers:
    """answer: carries out a call; raises nothing."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller, until it ends. Calls run beside each other, begun in their order."""
        try:
            await greet(reader, writer)
            while (asked := await read_frame(reader)) is not None:
                task = asyncio.create_task(self._carry_out(asked, writer))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except FrameError as error:
            logger.error("a caller's connection is ended: %s", error)
        finally:
            writer.close()

    async def _carry_out(self, asked: Frame, writer: asyncio.StreamWriter) -> None:
        pickled, failed = await self._answer(asked.pickled)
        if not writer.is_closing():
            writer.write(frame(asked.number, pickled, failed))
            with suppress(OSError):
                await writer.drain()
