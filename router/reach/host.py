"""The actors of this process, to those who call them from another one."""

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dualmap.router.reach.names import class_of
from dualmap.router.reach.packed import packed, packed_error
from dualmap.router.reach.reach import CallError, NoActorError

MAKE = "make"  # called of no actor: (module:class, name, arguments) -> an actor of this process
HELLO = "hello"  # called of no actor: whether somebody answers


@dataclass(slots=True)
class Host:
    """name: of the process, empty in one that hosts nothing. restarted: it is in place of one that died."""

    name: str = ""
    restarted: bool = False
    actors: dict[str, Any] = field(default_factory=dict)

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

    async def answer(self, pickled: bytes) -> tuple[bytes, bool]:
        """Carry out a call, see packed.py. What came of it, pickled, and whether it has failed."""
        try:
            actor, method, arguments = pickle.loads(pickled)  # of a process of this deployment
            if actor:
                return packed(await self.method(actor, method)(*arguments)), False
            if method == MAKE:
                self.make(*arguments)
            return packed(None), False
        except Exception as error:  # the caller's to judge
            return packed_error(error), True


HERE = Host()  # of this process; its main function says what it is


class Here:
    """An actor of this process, to the others in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def call(self, method: str, *arguments: Any) -> Any:
        """Goes on to its end, also where the caller waits no longer, as a call from elsewhere does."""
        running = asyncio.ensure_future(HERE.method(self._name, method)(*arguments))
        try:
            return await asyncio.shield(running)
        except CallError:
            raise
        except Exception as error:
            raise CallError(f"{type(error).__name__}: {error}", error) from None
