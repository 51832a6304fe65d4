"""CPU that the gateway costs: `python -m dualmap.loadtest.overhead`.

Microseconds of the proxy's CPU per request (plain answers, 16 kept-alive connections, every prompt different) and per
relayed SSE chunk (64 streams, a chunk each 20 ms at random phases, less the cost of the requests themselves), for the
gateway and, as the yardstick, for nginx as a plain reverse proxy, in turns under the same load. Backends and load
generator are processes of their own. CPU is user and system time from the CPU clocks of the proxy's processes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from statistics import median

import msgspec

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.measured_proxy import (
    DEFAULT_GATEWAY,
    MeasuredProxy,
    ProxyError,
    backends,
    gateway,
    nginx,
    why_no_nginx,
)

BACKENDS = 4
CONNECTIONS = 16
STREAMS = 64
PROMPTS = {"200 B": (200, 4000), "8 KB": (8_192, 4000), "48 KB": (49_152, 1500)}  # name: (bytes, requests a round)
STREAM_CHUNKS = 150  # 3 s
CHUNK = "SSE chunk"
LOAD_TIMEOUT_S = 60.0

Rounds = dict[str, dict[str, list[float]]]  # proxy -> column -> microseconds, one value a round


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.overhead", description="CPU cost of the gateway")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians are of so many rounds (default 5)")
    parser.add_argument("--gateway", default=DEFAULT_GATEWAY, metavar="COMMAND", help=f"default: {DEFAULT_GATEWAY}")
    parser.add_argument("--no-nginx", action="store_true", help="measure the gateway alone")
    parser.add_argument("--json", metavar="FILE", help="write all rounds")
    args = parser.parse_args()
    try:
        rounds = measure(args.gateway, args.rounds, with_nginx=not args.no_nginx)
    except ProxyError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 1
    print(markdown(rounds))
    if args.json:
        machine = {"date": date.today().isoformat(), "cpu": cpu_model(), "cores": os.cpu_count()}
        Path(args.json).write_text(json.dumps({**machine, "cpu_us": rounds}, indent=1) + "\n")
    return 0


def measure(gateway_command: str, rounds: int, *, with_nginx: bool) -> Rounds:
    """Start everything, measure in turns, stop everything. Raises ProxyError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dualmap-overhead-")))
        ports = free_ports("127.0.0.1", BACKENDS)
        stack.enter_context(backends(ports, folder))
        proxies = [stack.enter_context(gateway(gateway_command, ports, folder))]
        reason = why_no_nginx() if with_nginx else "not asked for"
        if reason:
            print(f"nginx skipped: {reason}", file=sys.stderr)
        else:
            proxies.append(stack.enter_context(nginx(ports, folder)))
        found: Rounds = {proxy.name: {column: [] for column in (*PROMPTS, CHUNK)} for proxy in proxies}
        load_id = 0
        for number in range(rounds + 1):  # the first one warms up
            for column in (*PROMPTS, CHUNK):
                for proxy in proxies if number % 2 else reversed(proxies):
                    load_id += 1
                    own_us = found[proxy.name]["200 B"][-1:] or [0.0]
                    value_us = _one(proxy, column, load_id, own_us[0])
                    if number:
                        found[proxy.name][column].append(value_us)
            if number:
                print(f"round {number}/{rounds}", file=sys.stderr)
    return found


def _one(proxy: MeasuredProxy, column: str, load_id: int, request_us: float) -> float:
    """CPU microseconds per request, or per chunk less what the requests themselves cost. Raises ProxyError."""
    first_id = load_id << 32
    if column == CHUNK:
        load = Load(proxy.port, STREAMS, STREAMS, PROMPTS["200 B"][0], STREAM_CHUNKS, first_id)
    else:
        prompt_bytes, requests = PROMPTS[column]
        load = Load(proxy.port, CONNECTIONS, requests, prompt_bytes, 0, first_id)
    used_us = _cpu_us(proxy, load)
    if column == CHUNK:
        return (used_us - STREAMS * request_us) / (STREAMS * STREAM_CHUNKS)
    return used_us / load.requests


def _cpu_us(proxy: MeasuredProxy, load: Load) -> float:
    before_s = proxy.cpu_s()
    command = [sys.executable, "-m", "dualmap.loadtest.overhead.load", msgspec.json.encode(load).decode()]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, timeout=LOAD_TIMEOUT_S, check=True).stdout
    except subprocess.SubprocessError as error:
        raise ProxyError(f"the load on {proxy.name} did not end: {error}") from error
    used_us = (proxy.cpu_s() - before_s) * 1e6
    result = json.loads(output)
    if result["failed"]:
        raise ProxyError(
            f"{result['failed']} of {load.requests} requests to {proxy.name} failed: {result['first_failure']}"
        )
    return used_us


def markdown(rounds: Rounds) -> str:
    """The table, and the ratio of the first proxy to the second where there are two."""
    columns = (*PROMPTS, CHUNK)
    medians = {name: {column: median(values[column]) for column in columns} for name, values in rounds.items()}
    count = len(next(iter(rounds.values()))[CHUNK])
    lines = [
        f"CPU microseconds of the proxy, medians of {count} rounds, {date.today().isoformat()}, {cpu_model()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()}",
        "",
        "| proxy | a request: " + " | ".join(columns[:-1]) + " | a relayed SSE chunk |",
        "|---" * (len(columns) + 1) + "|",
        *(_line(name, [f"{values[column]:.1f}" for column in columns]) for name, values in medians.items()),
    ]
    if len(medians) == 2:
        ours, yardstick = medians.values()
        lines.append(_line("ratio", [f"{ours[column] / yardstick[column]:.2f}" for column in columns]))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
