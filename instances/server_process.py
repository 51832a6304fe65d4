"""One server process of ours, started through the keeper so that it cannot be orphaned."""

import asyncio
import contextlib
import re
import subprocess
import sys
from pathlib import Path

LISTENING = re.compile(r"listening on http://([^:/\s]+):(\d+)")
LOG_LINES_SHOWN = 5  # of the server's log, in the error when a start fails


class StartError(Exception):
    """The server did not come up; the message says why, with the last lines of its log."""


class ServerProcess:
    """host and port are those the server says it listens on; pid is the server's own, not the keeper's."""

    def __init__(self, command: tuple[str, ...], log_path: Path, stop_grace_s: float) -> None:
        self._command = command
        self._log_path = log_path
        self._stop_grace_s = stop_grace_s
        self._keeper: subprocess.Popen[str] | None = None
        self._exit: asyncio.Task[int] | None = None
        self.pid = 0
        self.host = ""
        self.port = 0

    async def start(self, timeout_s: float) -> None:
        """Returns when the server listens. Raises StartError."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        keeper_command = [sys.executable, "-m", "instances.keeper", str(self._stop_grace_s), *self._command]
        with self._log_path.open("a") as log:
            self._keeper = subprocess.Popen(  # noqa: ASYNC220, forks once per server start
                keeper_command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._exit = asyncio.create_task(asyncio.to_thread(self._keeper.wait))
        try:
            await asyncio.wait_for(asyncio.to_thread(self._read_address), timeout_s)
        except TimeoutError:
            await self.stop()
            raise StartError(f"{self._command[0]} did not listen within {timeout_s:g} s{self._log_tail()}") from None
        if not self.port:
            code = await self._exit
            raise StartError(f"{' '.join(self._command)} exited with code {code}{self._log_tail()}")

    async def wait(self) -> int:
        """Returns the exit code when the server has ended."""
        assert self._exit is not None
        return await asyncio.shield(self._exit)

    async def stop(self) -> None:
        """SIGTERM, the grace time, SIGKILL; returns when the process group is gone."""
        if self._keeper is None or self._exit is None:
            return
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        await self._exit

    def _read_address(self) -> None:
        assert self._keeper is not None
        assert self._keeper.stdout is not None
        for line in self._keeper.stdout:
            if line.startswith("pid "):
                self.pid = int(line.split()[1])
            elif match := LISTENING.search(line):
                self.host, self.port = match[1], int(match[2])
                return

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return f"; the end of {self._log_path}:\n" + "\n".join(lines) if lines else f"; {self._log_path} is empty"
