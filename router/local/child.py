"""A child process and its actors, kept alive: what dies is started again, with the same actors made anew."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from dualmap.router.local.connection import Connection
from dualmap.router.local.local_reach import socket_path
from dualmap.router.local.process import MODULE
from dualmap.router.reach.host import MAKE
from dualmap.router.reach.reach import CallError

SHORT_LIFE_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before one that lived for a short time is started again
BACKLOG = 128
STANDARD_ERROR = 2


class Made(NamedTuple):
    """cls: module:class."""

    cls: str
    name: str
    arguments: tuple[Any, ...]


class Child:
    """All its methods are called in one event loop. name: of the process. program: the module that it runs. arguments:
    of that; of a process for actors the modules that it imports at once. say: is told when it is started again."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: str,
        log_path: Path | None,
        say: Callable[[str], None],
        program: str = MODULE,
    ) -> None:
        """folder: of sockets. log_path: gets what the process prints, such as a traceback; None: standard error does.
        Raises OSError where there can be no socket."""
        self._name = name
        self._arguments = arguments
        self._program = program
        self._log_path = log_path
        self._say = say
        self._actors: list[Made] = []
        self._there: dict[str, asyncio.Future[None]] = {}  # by actor: done once the process that there is has made it
        self._more = asyncio.Event()  # an actor was added
        self._path = socket_path(folder, name)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self._path)
        self._listening.listen(BACKLOG)
        self._connection = Connection(self._path)
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._keep())

    def make(self, actor: Made) -> None:
        """In the process that there is, and in each that comes after it."""
        self._actors.append(actor)
        self._there[actor.name] = _nobody_has_to_wait()
        self._more.set()

    async def call(self, actor: str, method: str, *arguments: Any) -> Any:
        """Once the process has made the actor, also after it was started again; of no actor (host.py) at once. Raises
        CallError."""
        if actor:
            await asyncio.shield(self._there[actor])
        return await self._connection.call(actor, method, *arguments)

    async def end(self) -> None:
        """Kill it, and start no other. Returns when it is gone."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        if self._process is not None:
            _kill(self._process)
            await self._process.wait()
        for there in self._there.values():
            there.cancel()
        self._connection.close()
        self._listening.close()
        with suppress(OSError):
            os.unlink(self._path)

    async def _keep(self) -> None:
        starts, pause_s = 0, FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            begun_at = loop.time()
            try:
                ending = await self._live(starts)
            except OSError as error:  # no process, or no file for what it prints
                ending = f"it cannot be started: {error}"
            self._connection.close()
            self._there = {
                name: _nobody_has_to_wait() if there.done() else there for name, there in self._there.items()
            }
            starts += 1
            pause_s = FIRST_PAUSE_S if loop.time() - begun_at > SHORT_LIFE_S else min(LONGEST_PAUSE_S, 2 * pause_s)
            self._say(f"{self._name} ended ({ending}) and is started again")
            await asyncio.sleep(pause_s)

    async def _live(self, starts: int) -> str:
        """One process, until it ends: how. Raises OSError where it cannot be started."""
        process = self._process = await self._start(starts)
        making = asyncio.create_task(self._make_all(process, starts))
        try:
            code = await process.wait()
        finally:
            making.cancel()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _start(self, starts: int) -> asyncio.subprocess.Process:
        listening = self._listening.fileno()
        command = (sys.executable, "-P", "-m", self._program, self._name, str(listening), str(starts), *self._arguments)
        with nullcontext(STANDARD_ERROR) if self._log_path is None else self._log_path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,  # its end is that of this process
                stdout=log,
                stderr=log,
                pass_fds=(listening,),
                process_group=0,  # Ctrl-C is for this process
            )

    async def _make_all(self, process: asyncio.subprocess.Process, starts: int) -> None:
        """In their order. A process that was started again and cannot make one is of no use: another may."""
        made = 0
        while True:
            self._more.clear()
            for actor in self._actors[made:]:
                there = self._there[actor.name]
                made += 1
                try:
                    await self._connection.call("", MAKE, *actor)
                except CallError as error:
                    self._say(f"{actor.name} cannot be started: {error}")
                    there.set_exception(CallError(str(error)))
                    if starts:
                        _kill(process)
                        return
                else:
                    there.set_result(None)
            await self._more.wait()


def _nobody_has_to_wait() -> "asyncio.Future[None]":
    """An error that nobody asks about is no fault."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
