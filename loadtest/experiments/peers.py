"""DualMap against routers that others wrote: `python -m dualmap.loadtest.experiments.peers --traces DIR`.

The same traces go through nginx (round robin), vllm-router, smg and sglang-router, each as its documentation sets it up
for cache-aware routing and with its defaults, and through DualMap's gateway, to the same eight simulated servers; they
are replayed by `dualmap replay` and by AIPerf (`make peers`). Before each run the servers' caches are emptied and
the router is started. What a run came to is kept in --out, and a run that is there is not repeated.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.peers_aiperf import ENCODINGS_VARIABLE, AiperfError
from dualmap.loadtest.experiments.peers_measured import OURS, Measured, against_best_peer, table
from dualmap.loadtest.experiments.peers_run import (
    AIPERF,
    BOTH,
    DEFAULT,
    NGINX,
    RECOMMENDED,
    REPLAY,
    Bench,
    Run,
    expected_s,
    measure,
    simulated_servers,
)
from dualmap.loadtest.experiments.peers_workloads import WORK, Work
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.option_lists import whole_numbers
from dualmap.loadtest.overhead.measured_proxy import ProxyError, why_no_nginx
from dualmap.loadtest.overhead.peers import PEERS, why_no_peers
from dualmap.loadtest.replay.flush_cache import FlushError
from dualmap.loadtest.replay.run_file import RunFileError
from dualmap.loadtest.traces.trace import TraceError

EVERYONE = ((NGINX, ""), *((name, RECOMMENDED) for name in PEERS), (OURS, ""))


def plan(works: Sequence[Work]) -> list[Run]:
    """The rate in the middle first, with both clients; then the other rates; in the middle, other settings."""
    runs = [Run(work, work.rates[1], *who, REPLAY) for work in works for who in EVERYONE]
    runs += [Run(work, work.aiperf_rate, *who, AIPERF) for work in works for who in EVERYONE]
    runs += [Run(work, rate, *who, REPLAY) for work in works for rate in work.rates[::2] for who in EVERYONE]
    runs += [Run(work, work.rates[1], OURS, BOTH, REPLAY) for work in works]
    runs += [Run(work, work.aiperf_rate, OURS, BOTH, AIPERF) for work in works]
    runs += [Run(work, work.rates[1], name, DEFAULT, REPLAY) for work in works for name in PEERS]
    return runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--traces", type=Path, metavar="DIR", help="with the public ones (default: synthetic ones)")
    add("--out", type=Path, default=Path("runs/peers"), metavar="DIR", help="of results (runs/peers)")
    add("--only", default="", metavar="A,B", help="runs whose names have all of these parts (all)")
    add("--share", type=positive, default=1.0, metavar="X", help="of the requests of each run (1)")
    add("--faster", type=positive, default=1.0, metavar="X", help="servers, rates and objectives, so many times (1)")
    add("--minutes", type=positive, default=600.0, metavar="M", help="no run begins after them (600)")
    add("--list", action="store_true", help="only show what there is")
    add("--peers", type=Path, default=Path(".venv-peers"), metavar="DIR", help="environment of others (.venv-peers)")
    add("--ports", metavar="P,P", help="servers that run here with VLLM_SERVER_DEV_MODE=1 (default: simulated ones)")
    add("--model", default="sim", metavar="NAME", help="that these serve")


def run(args: argparse.Namespace) -> int:
    """0 all is there; 1 a run failed, or the time was up; 2 it could not start."""
    runs = [one for one in plan(WORK) if all(part in one.name for part in args.only.split(","))]
    bench = Bench(
        ports=whole_numbers(args.ports, "--ports") if args.ports else (),
        model=args.model,
        out=args.out,
        peers=args.peers.absolute(),
        traces=args.traces,
        faster=args.faster,
        share=args.share,
    )
    reason = why_no_peers(args.peers) or why_no_nginx()
    if not reason and ENCODINGS_VARIABLE not in os.environ and any(one.client == AIPERF for one in runs):
        reason = f"AIPerf needs {ENCODINGS_VARIABLE}, a folder with tiktoken's encodings"
    if reason and not args.list:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    failed = 0
    try:
        missing = [one for one in runs if kept(args.out, one) is None]
        minutes = sum(expected_s(one, bench) for one in missing) / 60
        print(f"{len(missing)} runs are missing, about {minutes:.0f} minutes", file=sys.stderr)
        if not args.list:
            failed = _measure_all(missing, bench, time.monotonic() + args.minutes * 60)
    except (ProxyError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        failed = 1
    print(page(args.out, runs))
    return 1 if failed else 0


def _measure_all(runs: Sequence[Run], bench: Bench, until_s: float) -> int:
    """How many could not be measured. until_s: on the monotonic clock. Raises ProxyError, TraceError."""
    failed = 0
    servers = nullcontext(bench.ports) if bench.ports else simulated_servers(bench.faster, bench.out / "servers")
    with servers as ports:
        bench = replace(bench, ports=ports)
        for number, one in enumerate(runs, start=1):
            if time.monotonic() > until_s:
                return failed + len(runs) - number + 1
            print(f"{datetime.now():%H:%M:%S} {number}/{len(runs)} {one.name}", file=sys.stderr, flush=True)
            try:
                found = measure(one, bench)
            except (ProxyError, FlushError, AiperfError, RunFileError) as error:
                print(f"error: {one.name}: {error}", file=sys.stderr, flush=True)
                failed += 1
            else:
                (bench.out / f"{one.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return failed


def kept(out: Path, one: Run) -> Measured | None:
    """What a run came to, if it is there."""
    try:
        return msgspec.json.decode((out / f"{one.name}.json").read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError):
        return None


def page(out: Path, runs: Sequence[Run]) -> str:
    """The tables, in Markdown, of what there is."""
    found = [measured for one in runs if (measured := kept(out, one)) is not None]
    lines = [f"{len(found)} of {len(runs)} runs. {cpu_model()}, {os.cpu_count()} cores."]
    if found:
        span = f"{min(f.started_at for f in found)} to {max(f.started_at for f in found)}"
        load, steal = (max(getattr(f, name) for f in found) for name in ("load", "steal"))
        lag_s = max((f.send_lag_p99_s or 0.0 for f in found), default=0.0)
        lines.append(f"{span}; at most: load {load:.1f}, steal {steal:.1%}, P99 of the replay's sending {lag_s:.2f} s.")
    for client in (REPLAY, AIPERF):
        for work in dict.fromkeys(f.work for f in found):
            chosen = [f for f in found if f.work == work and f.client == client]
            if chosen:
                lines += ["", f"### {work}, {client}", "", *table(chosen), "", *against_best_peer(chosen)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
