"""What a request costs where several gateways share a machine: `python -m dualmap.loadtest.overhead.scaling`.

1, 2 and 4 gateways, each on a core of its own as far as there are cores, all in front of the same model servers, each
under a load of its own at the same time. Requests a second of all, and CPU microseconds a request; with --counts
thousands of instructions a request under Callgrind, which are the same for any number, and however busy the machine.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean

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

PROMPT_BYTES = 8_192
_BACKENDS = 4
_CONNECTIONS = 16
REQUESTS = 4000
COUNTED_REQUESTS = 100


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.overhead.scaling", description=__doc__)
    parser.add_argument("--gateways", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4")
    parser.add_argument("--counts", action="store_true", help="count instructions instead (needs valgrind)")
    args = parser.parse_args()
    if args.counts and (reason := why_no_counts()):
        print(f"counts skipped: {reason}", file=sys.stderr)
        return 0
    print(f"Requests of {PROMPT_BYTES} bytes, {os.cpu_count()} cores")
    print()
    measured = "thousand instructions a request" if args.counts else "requests/s of all | µs of CPU a request"
    print(f"| gateways | {measured} |")
    print("|---|---|" if args.counts else "|---|---|---|")
    try:
        for number in args.gateways:
            print(f"| {number} | {count(number) if args.counts else measure(number)} |", flush=True)
    except ProxyError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    return 0


def measure(gateways: int) -> str:
    """Requests a second and CPU microseconds a request, as cells. Raises ProxyError."""
    with _prepared(gateways, DEFAULT_GATEWAY) as (folder, ports, commands), ExitStack() as stack:
        proxies = []
        for number, (port, command) in enumerate(zip(ports, commands, strict=True)):
            pid = stack.enter_context(running(command, [port], folder / f"{port}.log"))
            _pin(pid, number)
            proxies.append(MeasuredProxy(f"gateway {number}", port, pid))
        requests = REQUESTS // gateways
        _at_once(ports, requests, first_id=1 << 32)
        before_s, began_s = sum(proxy.cpu_s() for proxy in proxies), time.monotonic()
        _at_once(ports, requests, first_id=2 << 32)
        took_s, used_s = time.monotonic() - began_s, sum(proxy.cpu_s() for proxy in proxies) - before_s
        return f"{gateways * requests / took_s:.0f} | {used_s * 1e6 / (gateways * requests):.1f}"


def count(gateways: int) -> str:
    """Thousands of instructions a request, as a cell. Raises ProxyError."""
    with _prepared(gateways, UNTIMED_GATEWAY) as (folder, ports, commands), ExitStack() as stack:
        processes = []
        for number, (port, command) in enumerate(zip(ports, commands, strict=True)):
            processes.append(stack.enter_context(counted(command, [port], folder, str(port))))
            _pin(processes[-1].pid, number)
        _at_once(ports, COUNTED_REQUESTS, first_id=1 << 32, connections=1)
        for process in processes:
            process.start_counting()
            process.zero()
        _at_once(ports, COUNTED_REQUESTS, first_id=2 << 32, connections=1)
        thousands = [process.spent() / COUNTED_REQUESTS / 1000 for process in processes]
        return f"{mean(thousands):.1f} ({min(thousands):.1f} to {max(thousands):.1f})"


@contextmanager
def _prepared(gateways: int, template: str) -> Iterator[tuple[Path, list[int], list[list[str]]]]:
    """Model servers that run; a folder for files, and the gateways' ports and commands."""
    with tempfile.TemporaryDirectory(prefix="dualmap-scaling-") as name:
        backend_ports = free_ports("127.0.0.1", _BACKENDS)
        with backends(backend_ports, Path(name)):
            ports = free_ports("127.0.0.1", 2 * gateways)
            pairs = list(zip(ports[:gateways], ports[gateways:], strict=True))
            yield (
                Path(name),
                ports[:gateways],
                [gateway_command(template, port, admin, backend_ports) for port, admin in pairs],
            )


def _pin(pid: int, number: int) -> None:
    """To one of the cores that there are, in turn."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {cores[number % len(cores)]})


def _at_once(ports: Sequence[int], requests: int, first_id: int, connections: int = _CONNECTIONS) -> None:
    """A load on each. Raises ProxyError."""
    loads = [Load(port, connections, requests, PROMPT_BYTES, 0, first_id + (n << 24)) for n, port in enumerate(ports)]
    with ThreadPoolExecutor(len(loads)) as pool:
        list(pool.map(lambda load: send(load, f"gateway {load.port}", timeout_s=START_S), loads))


if __name__ == "__main__":
    sys.exit(main())
