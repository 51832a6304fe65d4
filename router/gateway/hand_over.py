"""Listening sockets pass from a gateway's process to the one that follows it. They stay open all the time, so that a
connection that waits in one of them to be accepted waits on, and none is refused."""

import asyncio
import json
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from dualmap.router.local.owned_folder import owned_folder

TIMEOUT_S = 120.0  # until the one that follows has come: its process has to start
TAKE_TIMEOUT_S = 5.0
MAX_SOCKETS = 64
PREFIX = "dualmap-sockets-"  # of a folder

Sockets = Mapping[str, Sequence[socket.socket]]  # by what they are for: one of these
CLIENTS, ADMIN = "clients", "admin"
NO_SOCKETS: Sockets = {}


class HandOver:
    """Gives sockets to the first process that connects to `path`, which none but this user's can. filenos: by what the
    sockets are for; they stay open here."""

    def __init__(self, filenos: Mapping[str, Sequence[int]]) -> None:
        self._filenos = filenos
        self._folder = ExitStack()
        folder = self._folder.enter_context(owned_folder(Path(tempfile.gettempdir()), PREFIX))
        self.path = str(folder / "listeners")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(1)
        self._server.setblocking(False)
        self._task = asyncio.create_task(self._give())

    async def _give(self) -> None:
        counts = {name: len(filenos) for name, filenos in self._filenos.items()}
        try:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(TIMEOUT_S):
                    taker, _ = await asyncio.get_running_loop().sock_accept(self._server)
                with taker:
                    every = [fileno for filenos in self._filenos.values() for fileno in filenos]
                    socket.send_fds(taker, [json.dumps(counts).encode()], every)
        finally:
            self._server.close()
            self._folder.close()


def take_over(path: str) -> Sockets:
    """What is given at the path; nothing where nobody gives any more, as when this process is started again."""
    try:
        with socket.socket(socket.AF_UNIX) as giver:
            giver.settimeout(TAKE_TIMEOUT_S)
            giver.connect(path)
            said, filenos, _, _ = socket.recv_fds(giver, 4096, MAX_SOCKETS)
    except OSError:
        return NO_SOCKETS
    found = iter(filenos)
    return {name: [socket.socket(fileno=next(found)) for _ in range(count)] for name, count in json.loads(said).items()}
