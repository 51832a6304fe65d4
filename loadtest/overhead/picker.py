"""What a request costs the endpoint picker: `python -m dualmap.loadtest.overhead.picker`.

A grpcio client in a process of its own asks as Envoy does, in full-duplex mode: no Envoy is needed. CPU microseconds a
request with 16 streams at a time; with --counts thousands of instructions a request, one at a time, under Callgrind.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.instructions import START_S, UNTIMED_GATEWAY, counted, why_no_counts
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.measured_proxy import (
    DEFAULT_GATEWAY,
    MeasuredProxy,
    ProxyError,
    backends,
    gateway_command,
    running,
)
from dualmap.loadtest.overhead.send import send

CLIENT = "dualmap.loadtest.overhead.picker_load"
PROMPT_BYTES = 8_192
REQUESTS = 2000
COUNTED_REQUESTS = 100
_CONFIG = '{"gateway": {"picker": {}}}'


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.overhead.picker", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians are of so many rounds (default 3)")
    parser.add_argument("--counts", action="store_true", help="count instructions instead (needs valgrind)")
    args = parser.parse_args()
    if args.counts and (reason := why_no_counts()):
        print(f"counts skipped: {reason}", file=sys.stderr)
        return 0
    try:
        spent = count(args.rounds) if args.counts else measure(args.rounds)
    except ProxyError as error:
        print(f"picker: {error}", file=sys.stderr)
        return 1
    unit = "thousand instructions" if args.counts else "us of CPU"
    print(
        f"picker: {median(spent):.1f} {unit} a request at {PROMPT_BYTES} bytes ({min(spent):.1f} to {max(spent):.1f})"
    )
    return 0


def measure(rounds: int) -> list[float]:
    """CPU microseconds a request, one value a round. Raises ProxyError."""
    with ExitStack() as stack:
        command, port, admin_port, folder = _prepared(stack, DEFAULT_GATEWAY)
        pid = stack.enter_context(running(command, [admin_port], folder / "picker.log", path="/health"))
        picker = MeasuredProxy("picker", port, pid)
        _ask(Load(port, 16, REQUESTS, PROMPT_BYTES))
        spent = []
        for number in range(1, rounds + 1):
            before_s = picker.cpu_s()
            _ask(Load(port, 16, REQUESTS, PROMPT_BYTES, first_id=number << 32))
            spent.append((picker.cpu_s() - before_s) * 1e6 / REQUESTS)
        return spent


def count(rounds: int) -> list[float]:
    """Thousands of instructions a request, one value a round. Raises ProxyError."""
    with ExitStack() as stack:
        command, port, admin_port, folder = _prepared(stack, UNTIMED_GATEWAY)
        picker = stack.enter_context(counted(command, [admin_port], folder, "picker", path="/health"))
        _ask(Load(port, 1, COUNTED_REQUESTS, PROMPT_BYTES))
        picker.start_counting()
        loads = [Load(port, 1, COUNTED_REQUESTS, PROMPT_BYTES, first_id=n << 32) for n in range(1, rounds + 1)]
        return [picker.count(partial(_ask, load)) / COUNTED_REQUESTS / 1000 for load in loads]


def _prepared(stack: ExitStack, template: str) -> tuple[list[str], int, int, Path]:
    """Model servers that run, the picker's command, its port and admin port, and a folder for files."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dualmap-picker-")))
    port, admin_port, *backend_ports = free_ports("127.0.0.1", 6)
    stack.enter_context(backends(backend_ports, folder))
    config = folder / "picker.json"
    config.write_text(_CONFIG)
    return [*gateway_command(template, port, admin_port, backend_ports), str(config)], port, admin_port, folder


def _ask(load: Load) -> None:
    send(load, "the picker", CLIENT, START_S)


if __name__ == "__main__":
    sys.exit(main())
