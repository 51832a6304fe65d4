"""Actors of one deployment on one machine, as reach.py describes them."""

import asyncio
from collections.abc import Awaitable
from functools import cache
from typing import Any

from dualmap.router.local.connection import Connection
from dualmap.router.local.host import HERE
from dualmap.router.reach.reach import CallError, NoActorError, Reached

BACKGROUND = "background"  # the process of Fleet, Rebalancer, Autoscalers and Watcher


def socket_path(folder: str, process: str) -> str:
    return f"{folder}/{process}"


class LocalReach:
    """Those of this process, and from elsewhere those of the background process. folder: of the sockets."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, name: str, anew: bool = False) -> Reached:
        if name in HERE.actors:
            return _Here(name)
        if HERE.name == BACKGROUND:
            raise NoActorError(f"there is no actor {name!r}")
        return _There(connection_to(socket_path(self._folder, BACKGROUND)), name)

    def was_restarted(self) -> bool:
        return HERE.restarted


@cache
def connection_to(path: str) -> Connection:
    """One for all of this process, which has one event loop."""
    return Connection(path)


class _There:
    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        return self._connection.call(self._name, method, *arguments)


class _Here:
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
