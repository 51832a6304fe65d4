"""Instructions that a process spends: counted by Callgrind, as user space spends them, whatever else the machine does.

Callgrind, not `perf stat`: virtual machines and containers seldom let hardware counters be read, and a count is
comparable only with counts of the same tool.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dualmap.loadtest.overhead.measured_proxy import DEFAULT_GATEWAY, ProxyError, running

UNTIMED_GATEWAY = DEFAULT_GATEWAY.replace("router.cli.standalone", "loadtest.overhead.untimed_gateway")
START_S = 900.0  # a process under Callgrind starts ten times as slowly as alone, and the machine may be busy
_COMMAND_S = 300.0
_ENVIRONMENT = {**os.environ, "PYTHONHASHSEED": "0"}  # else dicts and sets differ from run to run
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def why_no_counts() -> str | None:
    """None where instructions can be counted."""
    return None if shutil.which("valgrind") and shutil.which("vgdb") else "valgrind is not installed (Debian: valgrind)"


class CountedProcess:
    """A process that runs under Callgrind, and what it spends while something is asked of it."""

    def __init__(self, pid: int, out: Path) -> None:
        self.pid = pid
        self._out = out
        self._dumps = 0

    def start_counting(self) -> None:
        """From here on the process is some thirty times slower: warm it up before. Raises ProxyError."""
        self._tell("instrumentation on")

    def count(self, work: Callable[[], None]) -> int:
        """Instructions while `work` runs. Raises ProxyError."""
        self.zero()
        work()
        return self.spent()

    def zero(self) -> None:
        """Raises ProxyError."""
        self._tell("zero")

    def spent(self) -> int:
        """Instructions since `zero`. Raises ProxyError."""
        self._tell("dump")
        self._dumps += 1
        dump = self._out.with_name(f"{self._out.name}.{self._dumps}")
        totals = _totals(dump)
        dump.unlink()
        return totals

    def _tell(self, order: str) -> None:
        command = ["vgdb", f"--pid={self.pid}", *order.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
        if done.returncode:
            raise ProxyError(f"Callgrind does not take {order!r}: {done.stderr.strip()[-500:]}")


def instructions_of(command: Sequence[str], folder: Path) -> int:
    """Instructions of a program from its start to its end; its files in `folder`. Raises ProxyError."""
    out = folder / "program.callgrind"
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *command],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    if done.returncode:
        raise ProxyError(f"{command[0]} fails under Callgrind: {done.stderr[-500:]}")
    return _totals(out)


def _totals(dump: Path) -> int:
    totals = _TOTALS.search(dump.read_text())
    if not totals:
        raise ProxyError("Callgrind's dump has no totals")
    return int(totals[1])


@contextmanager
def counted(
    command: Sequence[str], ports: Sequence[int], folder: Path, name: str, path: str = "/v1/models"
) -> Iterator[CountedProcess]:
    """The process of `command` under Callgrind, once its ports answer GET `path`; its files in `folder`. Raises
    ProxyError."""
    out = folder / f"{name}.callgrind"
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    with running([*valgrind, *command], ports, folder / f"{name}.log", START_S, _ENVIRONMENT, path) as pid:
        yield CountedProcess(pid, out)
