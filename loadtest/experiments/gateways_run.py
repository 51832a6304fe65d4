"""One gateway against several on the same trace: `python -m dualmap.loadtest.experiments.gateways_run`.

For each number of gateways a deployment of its own, with the same simulated instances and the same synthetic chats,
open loop: what was found cached, how long the first token took, and the CPU that gateways used for a request, besides
what each uses without any (idle).
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import psutil

from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.url_servers import add_runtime_argument, instances
from dualmap.loadtest.option_lists import whole_numbers
from dualmap.loadtest.replay.run_file import read_run
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.reports.summary import summarise
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import write_trace

SLO_S = 5.0
SETTLE_S = 3.0
IDLE_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gateways", default="1,2,4", metavar="N,N", help="numbers of gateways (1,2,4)")
    parser.add_argument("--instances", type=int, default=8, metavar="N", help="simulated ones (8)")
    parser.add_argument("--qps", type=positive, default=8.0, metavar="Q", help="requests a second (8)")
    parser.add_argument("--seconds", type=positive, default=90.0, metavar="S", help="of each run (90)")
    add_runtime_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/gateways"), metavar="DIR", help="(runs/gateways)")


def run(args: argparse.Namespace) -> int:
    """1 if it could not run or a request failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    trace = args.out / "trace.jsonl"
    requests = synthesise(replace(WORKLOAD, qps=args.qps, requests=round(args.qps * args.seconds)))
    write_trace(trace, requests)
    rows = [
        ("gateways", "found cached", "TTFT P50", "P90", "P99", "failed", "requests by gateway", "CPU a request", "idle")
    ]
    failed = 0
    for count in whole_numbers(args.gateways, "--gateways"):
        out = args.out / f"{count}.jsonl"
        try:
            with (
                instances(args.runtime, args.instances) as (config, _),
                deployed({**config, "gateway": {"count": count}}, args.out) as deployment,
            ):
                deployment.await_ready(args.instances)
                idle = _idle_share(deployment)
                before_s, began_s = _cpu_s(deployment), time.monotonic()
                if code := run_replay(trace, deployment.url, out=out, label=f"{count} gateways", slo_s=SLO_S):
                    return code
                cpu_s = _cpu_s(deployment) - before_s - idle * (time.monotonic() - began_s)
        except DeploymentError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        header, done = read_run(out)
        found = summarise(header, done, SLO_S)
        failed += found.failed + found.shed
        shares = _by_gateway([row.request_id or "" for row in done])
        rows.append(
            (
                str(count),
                f"{found.hit_rate:.1%}",
                f"{found.ttft_p50_s:.2f} s",
                f"{found.ttft_p90_s:.2f} s",
                f"{found.ttft_p99_s:.2f} s",
                str(found.failed + found.shed),
                " ".join(map(str, shares)),
                f"{cpu_s / found.requests * 1e3:.2f} ms",
                f"{idle / count:.1%}",
            )
        )
    where = f"{date.today().isoformat()}, {os.cpu_count()} cores"
    print(f"\n{where}, {args.instances} simulated instances, runtime {args.runtime}\n")
    print("\n".join(aligned(rows)))
    return 1 if failed else 0


def _cpu_s(deployment: Deployed) -> float:
    """Of all gateways' processes, streams relayed and background calls included."""
    times = [psutil.Process(pid).cpu_times() for pid in deployment.actor_pids("GatewayActor")]
    return float(sum(t.user + t.system for t in times))


def _idle_share(deployment: Deployed) -> float:
    """Of a core, by all gateways together, with nothing to do."""
    time.sleep(SETTLE_S)
    before_s = _cpu_s(deployment)
    time.sleep(IDLE_S)
    return (_cpu_s(deployment) - before_s) / IDLE_S


def _by_gateway(request_ids: list[str]) -> list[int]:
    """Requests that each has served: their ids begin with its own."""
    counts: dict[str, int] = {}
    for request_id in request_ids:
        gateway = "-".join(request_id.split("-")[:2])
        counts[gateway] = counts.get(gateway, 0) + 1
    return [counts[gateway] for gateway in sorted(counts)]


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
