"""Instructions that the gateway spends: `python -m dualmap.loadtest.overhead.counts`.

Per request at three lengths of prompt, per request in two legs and per relayed SSE chunk, in user space, one request at
a time: the same within one or two percent on a busy machine, unlike microseconds. They are compared with those of
counts.json, both measured in turns of a fixed Python program, which cancels how an interpreter was built: exit status 1
if one has grown by 10 %.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from dualmap import is_compiled
from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.instructions import (
    UNTIMED_GATEWAY,
    CountedProcess,
    counted,
    instructions_of,
    why_no_counts,
)
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.lockstep import Lockstep
from dualmap.loadtest.overhead.measured_proxy import ProxyError, gateway_command

RECORDED = Path(__file__).with_name("counts.json")
TOO_MANY = 1.10
REQUESTS = {"200 B": (200, 100), "8 KB": (8_192, 100), "48 KB": (49_152, 50)}  # column: (bytes, requests a round)
CHUNK, TWO_LEGS = "SSE chunk", "8 KB, two legs"
COLUMNS = (*REQUESTS, CHUNK, TWO_LEGS)
ROLES = {TWO_LEGS: ("prefill", "decode")}  # of the backends; as many as there are
_CHUNKS = 600  # a garbage collection among fewer would show
_WARM_UP = 300  # requests, and chunks
_BACKENDS = 2
_YARDSTICK = """\
import sys
class Account:
    def __init__(self):
        self.held = {}
    def take(self, key, amount):
        self.held[key] = self.held.get(key, 0) + amount
        return len(self.held)
account, line = Account(), b"POST /v1/chat/completions HTTP/1.1"
for number in range(int(sys.argv[1])):
    method, _, rest = line.partition(b" ")
    words = [word for word in (str(number % 97), method.decode(), rest.decode()) if word]
    account.take(words[0], len(words))
    if not isinstance(words, list) or line.find(b"HTTP") < 0:
        raise ValueError
"""
_YARDSTICK_TURNS = 2000


class Counts(msgspec.Struct, frozen=True):
    """What was counted: instructions a turn of the yardstick, and per request or chunk of each column."""

    python: str  # the version, such as 3.11, and ", compiled" where the gateway is (setup.py)
    yardstick: float
    gateway: dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.overhead.counts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians are of so many rounds (default 3)")
    parser.add_argument("--only", choices=COLUMNS, metavar="COLUMN", help=f"one of {', '.join(COLUMNS)}")
    parser.add_argument("--gateway", default=UNTIMED_GATEWAY, metavar="COMMAND", help=f"default: {UNTIMED_GATEWAY}")
    parser.add_argument("--recorded", type=Path, default=RECORDED, metavar="FILE", help=f"default: {RECORDED}")
    parser.add_argument("--record", action="store_true", help="write the file instead of comparing with it")
    args = parser.parse_args()
    if reason := why_no_counts():
        print(f"counts skipped: {reason}", file=sys.stderr)
        return 0
    try:
        found = count(args.gateway, args.rounds, (args.only,) if args.only else COLUMNS)
    except ProxyError as error:
        print(f"counts: {error}", file=sys.stderr)
        return 1
    if args.record:
        args.recorded.write_text(json.dumps(msgspec.to_builtins(found), indent=1) + "\n")
    recorded = msgspec.json.decode(args.recorded.read_bytes(), type=Counts)
    print(table(found, recorded))
    if recorded.python != found.python:
        print(f"not compared: those of {args.recorded.name} are of Python {recorded.python}", file=sys.stderr)
        return 0
    grown = {column: by for column, by in growth(found, recorded).items() if by > TOO_MANY}
    for column, by in grown.items():
        print(f"counts: {column} takes {by:.2f} times the instructions of {args.recorded.name}", file=sys.stderr)
    return 1 if grown else 0


def count(gateway_template: str, rounds: int, columns: Sequence[str]) -> Counts:
    """Start a gateway, count, stop it; the same with one whose instances have roles. Raises ProxyError."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="dualmap-counts-") as path:
        folder = Path(path)
        for roles in dict.fromkeys(ROLES.get(column, ()) for column in columns):
            asked_for = [column for column in columns if ROLES.get(column, ()) == roles]
            found |= _counted(gateway_template, rounds, asked_for, roles, folder)
        version = ".".join(platform.python_version_tuple()[:2])
        return Counts(f"{version}, compiled" if is_compiled() else version, yardstick(folder), found)


def _counted(
    gateway_template: str, rounds: int, columns: Sequence[str], roles: Sequence[str], folder: Path
) -> dict[str, float]:
    with ExitStack() as stack:
        port, admin_port, *backend_ports = free_ports("127.0.0.1", 2 + _BACKENDS)
        lockstep = Lockstep(backend_ports)
        stack.enter_context(lockstep.serving())
        command = gateway_command(gateway_template, port, admin_port, backend_ports, roles)
        process = stack.enter_context(counted(command, [port], folder, "gateway"))
        asked = Asked(process, lockstep, port)
        for column in columns:
            asked.warm_up(column)
        process.start_counting()
        return {column: median(asked.cost(column) for _ in range(rounds)) for column in columns}


class Asked:
    """A counted proxy, and the loads that it has been sent: no prompt comes twice."""

    def __init__(self, process: CountedProcess, lockstep: Lockstep, port: int) -> None:
        self._process = process
        self._lockstep = lockstep
        self._port = port
        self._loads = 0

    def warm_up(self, column: str) -> None:
        self._lockstep.run(self._load(column, _WARM_UP))

    def cost(self, column: str) -> float:
        """Instructions for a request, or for a chunk beside its request. Raises ProxyError."""
        if column == CHUNK:
            return (self._count(column, _CHUNKS + 1) - self._count(column, 1)) / _CHUNKS
        requests = _request(column)[1]
        return self._count(column, requests) / requests

    def _count(self, column: str, number: int) -> float:
        load = self._load(column, number)
        return self._process.count(lambda: self._lockstep.run(load))

    def _load(self, column: str, number: int) -> Load:
        self._loads += 1
        if column == CHUNK:
            return Load(self._port, 1, 1, REQUESTS["200 B"][0], number, self._loads << 32)
        return Load(self._port, 1, number, _request(column)[0], 0, self._loads << 32)


def _request(column: str) -> tuple[int, int]:
    return REQUESTS[column.partition(",")[0]]


def yardstick(folder: Path) -> float:
    """Instructions for a turn of a fixed Python program."""
    once, twice = (
        instructions_of([sys.executable, "-S", "-c", _YARDSTICK, str(turns)], folder)
        for turns in (_YARDSTICK_TURNS, 2 * _YARDSTICK_TURNS)
    )
    return (twice - once) / _YARDSTICK_TURNS


def growth(found: Counts, recorded: Counts) -> dict[str, float]:
    """By column: what was counted over what was recorded, both in turns of the yardstick."""
    return {
        column: (spent / found.yardstick) / (recorded.gateway[column] / recorded.yardstick)
        for column, spent in found.gateway.items()
    }


def table(found: Counts, recorded: Counts) -> str:
    """Markdown: thousands of instructions, and what they are over those recorded."""
    columns = tuple(found.gateway)
    by = growth(found, recorded)
    return "\n".join(
        (
            f"Thousands of instructions of the gateway in user space, Python {found.python}",
            "",
            "| | " + " | ".join(columns) + " |",
            "|---" * (len(columns) + 1) + "|",
            "| counted | " + " | ".join(f"{found.gateway[column] / 1000:.1f}" for column in columns) + " |",
            "| recorded | " + " | ".join(f"{recorded.gateway[column] / 1000:.1f}" for column in columns) + " |",
            "| ratio, by the yardstick | " + " | ".join(f"{by[column]:.3f}" for column in columns) + " |",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
