"""What clients see when a part dies: `python -m dualmap.loadtest.experiments.kill_run`.

A deployment with two gateways and four simulated instances serves a steady stream of synthetic chats, and one part
after the other is killed with SIGKILL, or stopped for 30 seconds, in the middle of a run of its own.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.replay.run_file import Outcome, RequestRow, read_run
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import write_trace

STRIKE_S = 15.0  # into the run
STOPPED_S = 30.0
QPS = 6.0


@dataclass(frozen=True, slots=True)
class Blow:
    """name: what the table says. seconds: of the run. strike: does it; returns how many processes it hit."""

    name: str
    seconds: float
    strike: Callable[[Deployed], int]


def kill(class_name: str) -> Callable[[Deployed], int]:
    return lambda deployment: _signal(deployment.actor_pids(class_name)[:1], signal.SIGKILL)


def kill_server(deployment: Deployed) -> int:
    keepers = deployment.command_pids("dualmap.instances.server.keeper")
    servers = [pid for pid in deployment.command_pids("dualmap.instances.simulated.cli") if pid not in keepers]
    return _signal(servers[:1], signal.SIGKILL)


def stop_for_a_while(class_name: str) -> Callable[[Deployed], int]:
    def strike(deployment: Deployed) -> int:
        pids = deployment.actor_pids(class_name)[:1]
        _signal(pids, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        return _signal(pids, signal.SIGCONT)

    return strike


def _signal(pids: list[int], number: int) -> int:
    for pid in pids:
        os.kill(pid, number)
    return len(pids)


def restart_gateways(deployment: Deployed) -> int:
    """Three times; 1 if each was done."""
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    command = [sys.executable, "-m", "dualmap", "restart", "--gateways", "--admin", admin]
    return int(all(subprocess.run(command, check=False).returncode == 0 for _ in range(3)))


def terminate_gateway(deployment: Deployed) -> int:
    return _signal(deployment.actor_pids("GatewayActor")[:1], signal.SIGTERM)


BLOWS = (
    Blow("nothing", 40, lambda deployment: 1),
    Blow("dualmap restart --gateways, three times", 90, restart_gateways),
    Blow("SIGTERM to a gateway of two", 40, terminate_gateway),
    Blow("kill -9 Rebalancer", 40, kill("Rebalancer")),
    Blow("kill -9 Autoscaler", 40, kill("Autoscaler")),
    Blow("kill -9 Fleet", 40, kill("Fleet")),
    Blow(f"Fleet stopped for {STOPPED_S:g} s", 60, stop_for_a_while("Fleet")),
    Blow("kill -9 a gateway of two", 40, kill("GatewayActor")),
    Blow("kill -9 an instance's actor", 40, kill("InstanceActor")),
    Blow("kill -9 a server of four", 40, kill_server),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PART", help="blows whose names have this part (all)")
    parser.add_argument("--qps", type=positive, default=QPS, metavar="Q", help=f"requests a second ({QPS:g})")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"), metavar="DIR", help="for its files (runs/kill)")


def run(args: argparse.Namespace) -> int:
    """1 if it could not run, or a blow hit nothing."""
    rows: list[Sequence[str]] = [("", "requests", "whole", "cut off", "no answer", "shed", "P90 in the 10 s after")]
    try:
        with deployed({"simulate": {"count": 4}, "gateway": {"count": 2}}, args.out) as deployment:
            blows = [blow for blow in BLOWS if args.only is None or args.only in blow.name]
            for number, blow in enumerate(blows):
                print(f"{number + 1} of {len(blows)}: {blow.name}", flush=True)
                rows.append(_strike(deployment, blow, number, args))
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{date.today().isoformat()}, {os.cpu_count()} cores, {args.qps:g} requests a second\n")
    print("\n".join(aligned(rows)))
    return 0


def _strike(deployment: Deployed, blow: Blow, number: int, args: argparse.Namespace) -> tuple[str, ...]:
    trace, out = args.out / f"trace-{number}.jsonl", args.out / f"run-{number}.jsonl"
    write_trace(
        trace, synthesise(replace(WORKLOAD, qps=args.qps, requests=round(args.qps * blow.seconds), seed=number))
    )
    hit: list[int] = []
    timer = threading.Timer(STRIKE_S, lambda: hit.append(blow.strike(deployment)))
    timer.start()
    run_replay(trace, deployment.url, out=out, label=blow.name)
    timer.join()
    if hit != [1]:
        raise DeploymentError(f"{blow.name}: no such process was found")
    _, rows = read_run(out)
    outcomes = Counter(row.outcome for row in rows)
    failed = len(rows) - outcomes[Outcome.OK] - outcomes[Outcome.SHED]
    cut_off = sum(row.outcome is Outcome.BROKEN and row.ttft_s is not None for row in rows)
    return (
        blow.name,
        str(len(rows)),
        str(outcomes[Outcome.OK]),
        str(cut_off),
        str(failed - cut_off),
        str(outcomes[Outcome.SHED]),
        f"{_p90(rows, STRIKE_S, STRIKE_S + 10.0):.2f} s",
    )


def _p90(rows: list[RequestRow], from_s: float, to_s: float) -> float:
    return quantile(sorted(r.ttft_s for r in rows if r.ttft_s is not None and from_s <= r.scheduled_s < to_s), 0.9)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
