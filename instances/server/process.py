"""One server process of ours, started through the keeper so that it cannot be orphaned."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

LOG_END_BYTES = 16_384  # of the log of a server that ended, in which an error is looked for
LISTENING = re.compile(r"listening on http://\[?([^/\s\]]+)\]?:(\d+)")
LOG_LINES_SHOWN = 6  # of the end of the server's log, in the error when a start fails
ERROR_LINE = re.compile(r"(?:^|\s)(\w+(?:Error|Exception): .+)")  # the first is the cause, the last ones its effects
EXIT = re.compile(r"exit (-?\d+)\n")  # the last word of the keeper
KEEPER_KILLED = -9


class StartError(Exception):
    """The server did not come up; the message says why, with the last lines of its log. short: the same in a line."""

    def __init__(self, message: str, short: str = "") -> None:
        super().__init__(message)
        self.short = short or message.partition("\n")[0]


class ServerProcess:
    """host and port are those the server was told to listen on, or says it listens on; pid is the server's own, not the
    keeper's."""

    def __init__(
        self,
        command: tuple[str, ...],
        log_path: Path,
        stop_grace_s: float,
        env: Mapping[str, str] | None = None,
        address: tuple[str, int] | None = None,
    ) -> None:
        """env: added to our own. address: where it will listen; None if it has to say so."""
        self._command = command
        self._log_path = log_path
        self._stop_grace_s = stop_grace_s
        self._env = {**os.environ, **(env or {})}
        self._stdin: IO[str] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._known = asyncio.Event()  # pid and address
        self._log_start = 0
        self.pid = 0
        self.host, self.port = address or ("", 0)

    async def start(self, timeout_s: float) -> None:
        """Returns when the server runs, and has said where it listens if it is to say so. Raises StartError."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        keeper_command = [
            *(sys.executable, "-P", "-m"),  # -P: what lies in the current folder is not ours to import
            "dualmap.instances.server.keeper",
            str(self._stop_grace_s),
            *self._command,
        ]
        log = self._log_path.open("ab", buffering=0)
        self._log_start = log.tell()
        keeper = subprocess.Popen(  # noqa: ASYNC220, forks once per server start
            keeper_command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            errors="replace",  # a server may write what it likes
            env=self._env,
        )
        assert keeper.stdout is not None
        self._stdin = keeper.stdin
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        # Not one of the loop's threads: those are waited for when this process ends, and the keeper waits for that.
        arguments = (keeper, keeper.stdout, log, loop, self._ended)
        threading.Thread(target=self._follow, args=arguments, name="server", daemon=True).start()
        known = asyncio.create_task(self._known.wait())
        await asyncio.wait((known, self._ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        known.cancel()
        if self._ended.done():
            raise self.start_error(f"exited with code {self._ended.result()}")
        if not self._known.is_set():
            await self.stop()
            raise self.start_error(f"did not listen within {timeout_s:g} s")

    def start_error(self, what: str) -> StartError:
        """What went wrong, with the end of what this start wrote to the log."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        causes = (match[1] for line in lines if (match := ERROR_LINE.search(line)))
        cause = next((f": {cause}" for cause in causes), "")
        end = "\n".join(lines[-LOG_LINES_SHOWN:])
        shown = f"the end of {self._log_path}:\n{end}" if lines else f"{self._log_path} is empty"
        last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
        return StartError(f"{' '.join(self._command)} {what}{cause}; {shown}", f"it {what}{cause or last}")

    def last_error(self) -> str:
        """The last error in its log, of those that it wrote at the end; empty without one."""
        return next((match[1] for line in reversed(self._last_lines()) if (match := ERROR_LINE.search(line))), "")

    def _last_lines(self) -> list[str]:
        with self._log_path.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LOG_END_BYTES))
            return log.read().decode(errors="replace").splitlines()

    def last_line(self) -> str:
        """Of its log, as far as this start has written one; empty without one."""
        return next((line.strip() for line in reversed(self._last_lines()) if line.strip()), "")

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
            await asyncio.shield(self._ended)  # who waits may be cancelled, what follows the server must go on

    def _follow(
        self,
        keeper: subprocess.Popen[str],
        lines: IO[str],
        log: IO[bytes],
        loop: asyncio.AbstractEventLoop,
        ended: asyncio.Future[int],
    ) -> None:
        """Runs in a thread: reads what keeper and server say, until both are gone, and tells the exit code. A full disk
        costs lines of the log."""
        keeper.wait()  # what was started only starts the keeper
        code = KEEPER_KILLED
        with log, lines:
            for line in lines:
                if line.startswith("pid ") and not self.pid:
                    self.pid = int(line.split()[1])
                    if self.port:
                        loop.call_soon_threadsafe(self._known.set)
                elif match := EXIT.fullmatch(line):
                    code = int(match[1])
                else:
                    with suppress(OSError):
                        log.write(line.encode())
                    if not self.port and (match := LISTENING.search(line)):
                        self.host, self.port = match[1], int(match[2])
                        loop.call_soon_threadsafe(self._known.set)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(ended.set_result, code)
