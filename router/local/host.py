"""The actors of this process, and those who call them over its socket."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dualmap.router.local.frames import Frame, FrameError, frame, greet, read_frame
from dualmap.router.reach.names import class_of
from dualmap.router.reach.reach import NoActorError

logger = logging.getLogger(__name__)

MAKE = "make"  # called of no actor: (module:class, name, arguments) -> an actor of this process


@dataclass(slots=True)
class Host:
    """name: of the process, empty in one that hosts nothing. restarted: it is in place of one that died."""

    name: str = ""
    restarted: bool = False
    actors: dict[str, Any] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def make(self, cls: str, name: str, arguments: tuple[Any, ...]) -> None:
        """An actor is made once: who asks again has not heard it."""
        if name not in self.actors:
            self.actors[name] = class_of(cls)(*arguments)

    def method(self, actor: str, method: str) -> Callable[..., Any]:
        """Raises NoActorError."""
        if actor not in self.actors:
            raise NoActorError(f"{self.name} has no actor {actor!r}")
        found: Callable[..., Any] = getattr(self.actors[actor], method)
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller, until it ends. Calls run beside each other, begun in their order."""
        try:
            await greet(reader, writer)
            while (asked := await read_frame(reader)) is not None:
                task = asyncio.create_task(self._answer(asked, writer))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except FrameError as error:
            logger.error("%s ends a caller's connection: %s", self.name, error)
        finally:
            writer.close()

    async def _answer(self, asked: Frame, writer: asyncio.StreamWriter) -> None:
        answer = partial(frame, asked.number)
        try:
            actor, method, arguments = asked.value()
            if actor:
                sent = answer(await self.method(actor, method)(*arguments))
            else:
                self.make(*arguments)
                sent = answer(None)
        except Exception as error:  # the caller's to judge
            sent = _told(answer, error)
        if not writer.is_closing():
            writer.write(sent)
            with suppress(OSError):
                await writer.drain()


def _told(answer: Callable[..., bytes], error: Exception) -> bytes:
    try:
        return answer(error, failed=True)
    except FrameError:
        return answer(RuntimeError(repr(error)), failed=True)


HERE = Host()  # of this process; its main function says what it is
