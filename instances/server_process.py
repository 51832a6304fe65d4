"""One server process of ours, started through the keeper so that it cannot be orphaned."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

LISTENING = re.compile(r"listening on http://([^:/\s]+):(\d+)")
LOG_LINES_SHOWN = 5  # of the server's log, in the error when a start fails
KEEPER_KILLED = -9


class StartError(Exception):
    """The server did not come up; the message says why, with the last lines of its log."""


class ServerProcess:
    """host and port are those the server says it listens on; pid is the server's own, not the keeper's."""

    def __init__(self, command: tuple[str, ...], log_path: Path, stop_grace_s: float) -> None:
        self._command = command
        self._log_path = log_path
        self._stop_grace_s = stop_grace_s
        self._stdin: IO[str] | None = None
        self._ended: asyncio.Task[int] | None = None
        self._listening = asyncio.Event()
        self.pid = 0
        self.host = ""
        self.port = 0

    async def start(self, timeout_s: float) -> None:
        """Returns when the server listens. Raises StartError."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        keeper_command = [sys.executable, "-m", "instances.keeper", str(self._stop_grace_s), *self._command]
        with self._log_path.open("a") as log:
            keeper = subprocess.Popen(  # noqa: ASYNC220, forks once per server start
                keeper_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert keeper.stdout is not None
        self._stdin = keeper.stdin
        self._ended = asyncio.create_task(
            asyncio.to_thread(self._follow, keeper, keeper.stdout, asyncio.get_running_loop())
        )
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait((listening, self._ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._ended.done():
            command = " ".join(self._command)
            raise StartError(f"{command} exited with code {self._ended.result()}{self._log_tail()}")
        if not self.port:
            await self.stop()
            raise StartError(f"{self._command[0]} did not listen within {timeout_s:g} s{self._log_tail()}")

    @property
    def ended(self) -> bool:
        return self._ended is not None and self._ended.done()

    async def wait(self) -> int:
        """Returns the exit code when the server has ended."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """SIGTERM, the grace time, SIGKILL; returns when the process group is gone."""
        if self._stdin is not None and self._ended is not None:
            self._stdin.close()
            await self._ended

    def _follow(self, keeper: subprocess.Popen[str], lines: IO[str], loop: asyncio.AbstractEventLoop) -> int:
        """Runs in a thread: reads what keeper and server say, until both are gone. Returns the exit code."""
        keeper.wait()  # what was started only starts the keeper
        code = KEEPER_KILLED
        with self._log_path.open("a") as log, lines:
            for line in lines:
                if line.startswith("pid ") and not self.pid:
                    self.pid = int(line.split()[1])
                elif line.startswith("exit "):
                    code = int(line.split()[1])
                else:
                    log.write(line)
                    if not self.port and (match := LISTENING.search(line)):
                        self.host, self.port = match[1], int(match[2])
                        loop.call_soon_threadsafe(self._listening.set)
        return code

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return f"; the end of {self._log_path}:\n" + "\n".join(lines) if lines else f"; {self._log_path} is empty"
