"""One gateway against two on hosts of their own, on the same trace: `python -m dualmap.loadtest.experiments.hosts_run`.

The same simulated servers and the same synthetic chats, open loop. One gateway is `dualmap up` without Ray. Two are a
command each, and join a head over ray://; each gets every other request. What was found cached, how long the first
token took, and what links and the head use, busy and idle, in shares of a core.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec
import psutil

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.hosts import hosts
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.url_servers import instances
from dualmap.loadtest.experiments.watching import Usage, cpu_s, usage
from dualmap.loadtest.replay.run_file import read_run
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.reports.summary import RunSummary, summarise
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.router.local.link import PROGRAM as LINK

SLO_S = 5.0
SETTLE_S = 3.0
IDLE_S = 15.0
HEADING = ("", "found cached", "TTFT P50", "P90", "P99", "failed")
COSTS = ("", "processes", "RSS", "PSS", "idle", "busy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=8, metavar="N", help="simulated ones (8)")
    parser.add_argument("--qps", type=positive, default=8.0, metavar="Q", help="requests a second (8)")
    parser.add_argument("--seconds", type=positive, default=90.0, metavar="S", help="of each run (90)")
    parser.add_argument("--out", type=Path, default=Path("runs/hosts"), metavar="DIR", help="(runs/hosts)")


def run(args: argparse.Namespace) -> int:
    """1 if it could not run or a request failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    requests = synthesise(replace(WORKLOAD, qps=args.qps, requests=round(args.qps * args.seconds)))
    traces = [args.out / f"trace-{part}.jsonl" for part in ("whole", "a", "b")]
    for trace, part in zip(traces, (requests, requests[::2], requests[1::2]), strict=True):
        write_trace(trace, part)
    costs: list[Sequence[str]] = [COSTS]
    try:
        with instances("local", args.instances) as (config, _), deployed(config, args.out / "one") as deployment:
            deployment.await_ready(args.instances)
            one = replayed(traces[:1], [deployment], args.out / "one")
        with (
            instances("local", args.instances) as (config, _),
            hosts({"instances": config["instances"]}, 2, args.out / "two") as (head, gateways),
        ):
            links = [psutil.Process(pid) for gateway in gateways for pid in gateway.command_pids(LINK)]
            groups = {"the head": head.processes(), "both links": links}
            time.sleep(SETTLE_S)
            idle = shares(groups, lambda: time.sleep(IDLE_S))
            two: list[RunSummary] = []
            busy = shares(groups, lambda: two.append(replayed(traces[1:], gateways, args.out / "two")))
            for name, processes in groups.items():
                used = usage(processes)
                costs.append((name, *_memory(used), f"{idle[name]:.1%}", f"{busy[name]:.1%}"))
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = [HEADING, _row("one gateway", one), _row("two, joined", two[0])]
    print(
        f"\n{date.today().isoformat()}, {os.cpu_count()} cores ({cpu_model()}), {args.instances} simulated instances\n"
    )
    print("\n".join((*aligned(rows), "", *aligned(costs))))
    return 1 if any(summary.failed + summary.shed for summary in (one, two[0])) else 0


def replayed(traces: Sequence[Path], gateways: Sequence[Deployed], out: Path) -> RunSummary:
    """Each trace by its gateway, at once. Raises DeploymentError."""
    files = [out / f"run-{number}.jsonl" for number in range(len(traces))]
    with ThreadPoolExecutor(len(traces)) as replays:
        codes = [
            replays.submit(run_replay, trace, gateway.url, out=file, label=file.stem, slo_s=SLO_S)
            for trace, gateway, file in zip(traces, gateways, files, strict=True)
        ]
    if any(code.result() for code in codes):
        raise DeploymentError("a replay could not run")
    read = [read_run(file) for file in files]
    header = msgspec.structs.replace(read[0][0], requests=sum(header.requests for header, _ in read))
    return summarise(header, [row for _, found in read for row in found], SLO_S)


def shares(groups: Mapping[str, Sequence[psutil.Process]], do: Callable[[], object]) -> dict[str, float]:
    """Of a core, while that is done."""
    before = {name: cpu_s(processes) for name, processes in groups.items()}
    begun = time.monotonic()
    do()
    took_s = time.monotonic() - begun
    return {name: (cpu_s(processes) - before[name]) / took_s for name, processes in groups.items()}


def _row(name: str, found: RunSummary) -> Sequence[str]:
    times = (found.ttft_p50_s, found.ttft_p90_s, found.ttft_p99_s)
    return (name, f"{found.hit_rate:.1%}", *(f"{time_s:.2f} s" for time_s in times), str(found.failed + found.shed))


def _memory(used: Usage) -> Sequence[str]:
    return (str(used.processes), f"{used.rss_mib:.0f} MiB", f"{used.pss_mib:.0f} MiB")


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
