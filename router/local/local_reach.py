"""Actors of one deployment on one machine, as reach.py describes them."""

from collections.abc import Awaitable
from functools import cache
from typing import Any

from dualmap.router.local.connection import Connection
from dualmap.router.reach.host import HERE, Here
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.reach import NoActorError, Reached


def socket_path(folder: str, process: str) -> str:
    return f"{folder}/{process}"


class LocalReach:
    """Those of this process, and from elsewhere those of the background process. folder: of the sockets."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, name: str, anew: bool = False) -> Reached:
        if name in HERE.actors:
            return Here(name)
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
