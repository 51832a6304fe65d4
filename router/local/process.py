"""A process of a deployment without Ray: `python -m dualmap.router.local.process NAME SOCKET STARTS MODULE...`. It
makes the actors that it is told to, and ends with the process that started it."""

import asyncio
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import uvloop

from dualmap.router.local.serve import Callers
from dualmap.router.reach.host import HERE

MODULE = "dualmap.router.local.process"


def main(name: str, socket_fileno: int, starts: int, modules: Sequence[str]) -> None:
    """socket_fileno: listens; the process that started this one keeps it, so that whoever calls while there is none
    waits. starts: how many there were before. modules: of the actors that are made next."""
    end_with_parent()
    for module in modules:
        importlib.import_module(module)
    HERE.name, HERE.restarted = name, starts > 0
    uvloop.run(_serve(socket.socket(fileno=socket_fileno)))


async def _serve(listening: socket.socket) -> None:
    async with await asyncio.start_unix_server(Callers(HERE.answer).serve, sock=listening):
        await asyncio.Event().wait()


def end_with_parent() -> None:
    """And leave signals of the terminal to it."""
    threading.Thread(target=_await_end_of_parent, name="parent", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _await_end_of_parent() -> None:
    """Its end of the pipe is closed by its death, whatever it died of."""
    sys.stdin.buffer.read()
    os._exit(0)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
