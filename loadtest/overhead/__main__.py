"""CPU that the gateway costs: `python -m dualmap.loadtest.overhead`.

Microseconds of the proxy's CPU per request (plain answers, 16 kept-alive connections, every prompt different; as many
as are answered, and 200 a second) and per relayed SSE chunk (64 streams, a chunk each 20 ms at random phases, less the
cost of the requests themselves), for the gateway, for nginx as a plain reverse proxy and for routers that others wrote,
in turns under the same load. Backends and load generator are processes of their own. CPU is user and system time from
the CPU clocks of the proxy's processes: microseconds differ from day to day, ratios less.
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

from dualmap import is_compiled
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
from dualmap.loadtest.overhead.peers import PEERS, RECOMMENDED, peer, why_no_peers
from dualmap.loadtest.overhead.send import send

BACKENDS = 4
CONNECTIONS = 16
STREAMS = 64
STREAM_CHUNKS = 150  # 3 s
PACED_PER_S = 200.0
CHUNK = "SSE chunk"
LOADS = {
    "200 B": Load(connections=CONNECTIONS, requests=4000, prompt_bytes=200),
    "8 KB": Load(connections=CONNECTIONS, requests=4000, prompt_bytes=8_192),
    "48 KB": Load(connections=CONNECTIONS, requests=1500, prompt_bytes=49_152),
    "8 KB at 200/s": Load(connections=CONNECTIONS, requests=600, prompt_bytes=8_192, per_s=PACED_PER_S),
    CHUNK: Load(connections=STREAMS, requests=STREAMS, prompt_bytes=200, stream_chunks=STREAM_CHUNKS),
}
PEERS_ENVIRONMENT = Path(".venv-peers")
CHEAPEST = "cheapest Rust router"
NGINX = "nginx"

Rounds = dict[str, dict[str, list[float]]]  # proxy -> column -> microseconds, one value a round; the gateway first
Medians = dict[str, dict[str, float]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.overhead", description="CPU cost of the gateway")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians are of so many rounds (default 5)")
    parser.add_argument("--gateway", default=DEFAULT_GATEWAY, metavar="COMMAND", help=f"default: {DEFAULT_GATEWAY}")
    parser.add_argument("--no-nginx", action="store_true", help="measure without nginx")
    parser.add_argument("--no-peers", action="store_true", help="measure without routers that others wrote")
    parser.add_argument("--json", metavar="FILE", help="write all rounds")
    parser.add_argument("--history", type=Path, metavar="FILE", help="append the ratios to this page")
    args = parser.parse_args()
    try:
        rounds = measure(args.gateway, args.rounds, with_nginx=not args.no_nginx, with_peers=not args.no_peers)
    except ProxyError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 1
    medians = {name: {column: median(values) for column, values in columns.items()} for name, columns in rounds.items()}
    print(markdown(medians, args.rounds))
    if args.json:
        machine = {"date": date.today().isoformat(), "cpu": cpu_model(), "cores": os.cpu_count()}
        Path(args.json).write_text(json.dumps({**machine, "cpu_us": rounds}, indent=1) + "\n")
    if args.history:
        with open(args.history, "a") as history:
            history.write(history_line(medians) + "\n")
    return 0


def measure(gateway_command: str, rounds: int, *, with_nginx: bool, with_peers: bool) -> Rounds:
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
        reason = why_no_peers(PEERS_ENVIRONMENT) if with_peers else "not asked for"
        if reason:
            print(f"other routers skipped: {reason}", file=sys.stderr)
        else:
            for name in PEERS:
                router = peer(name, PEERS_ENVIRONMENT, ports, folder, RECOMMENDED[name])
                proxies.append(stack.enter_context(router))
        found: Rounds = {proxy.name: {column: [] for column in LOADS} for proxy in proxies}
        load_id = 0
        for number in range(rounds + 1):  # the first one warms up
            for column in LOADS:
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
    load = msgspec.structs.replace(LOADS[column], port=proxy.port, first_id=load_id << 32)
    before_s = proxy.cpu_s()
    send(load, proxy.name)
    used_us = (proxy.cpu_s() - before_s) * 1e6
    if load.stream_chunks:
        return (used_us - load.requests * request_us) / (load.requests * load.stream_chunks)
    return used_us / load.requests


def ratios(medians: Medians) -> dict[str, dict[str, float]]:
    """The gateway's microseconds over those of the cheapest other router, column by column, and over nginx's; of what
    was measured."""
    ours, *_ = medians.values()
    routers = [values for name, values in medians.items() if name.split()[0] in PEERS]
    found = {}
    if routers:
        found[CHEAPEST] = {column: us / min(values[column] for values in routers) for column, us in ours.items()}
    for name, values in medians.items():
        if name.split()[0] == "nginx":
            found[NGINX] = {column: us / values[column] for column, us in ours.items()}
    return found


def markdown(medians: Medians, rounds: int) -> str:
    """Ratios first, then microseconds."""
    lines = [
        f"CPU of the proxy's processes, medians of {rounds} rounds, {date.today().isoformat()}, {cpu_model()},"
        f" {os.cpu_count()} cores, Python {platform.python_version()}, commit {commit()},"
        f" {'compiled' if is_compiled() else 'pure Python'}",
        "",
        "| | a request: " + " | ".join(column for column in LOADS if column != CHUNK) + " | a relayed SSE chunk |",
        "|---" * (len(LOADS) + 1) + "|",
        *(_line(f"dualmap / {name}", values, ".2f") for name, values in ratios(medians).items()),
        *(_line(f"{name}, µs", values, ".1f") for name, values in medians.items()),
    ]
    return "\n".join(lines)


def history_line(medians: Medians) -> str:
    """A row of docs/results/overhead-history.md; a dash for what was not measured."""
    by = ratios(medians)
    cells = [f"{by[name][column]:.2f}" if name in by else "-" for name in (CHEAPEST, NGINX) for column in LOADS]
    return (
        f"| {date.today().isoformat()} | {commit()} | {cpu_model()}, {os.cpu_count()} cores | "
        + " | ".join(cells)
        + " |"
    )


def commit() -> str:
    """That of the source, with a + where files differ from it; "unknown" outside of a repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _line(name: str, values: dict[str, float], form: str) -> str:
    return f"| {name} | " + " | ".join(f"{values[column]:{form}}" for column in LOADS) + " |"


if __name__ == "__main__":
    sys.exit(main())
