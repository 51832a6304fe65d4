"""What clients see when a part dies: `python -m dualmap.loadtest.experiments.kill_run --seeds 10`.

A deployment with two gateways and four simulated instances serves a steady stream of synthetic chats, and one part
after the other is killed with SIGKILL, hangs or is told to end, in the middle of a run of its own. Ray's GCS is the
last of a seed, since its node dies a minute after it. The journals are judged, too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.url_servers import RUNTIMES, add_runtime_argument, instances
from dualmap.loadtest.histories.faults import Fault
from dualmap.loadtest.histories.journals import judge, read_history
from dualmap.loadtest.histories.rows import row_faults, row_of
from dualmap.loadtest.replay.run_file import Outcome, RequestRow, read_run
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import write_trace

STRIKE_S = 10.0  # into the run
AFTER_S = 10.0  # in which requests count for the P90 after the blow
STOPPED_S = 20.0
DRAIN_DEADLINE_S = 1.0
DRAINED_S = 10.0
READY_TIMEOUT_S = 60.0
QPS = 6.0
COUNT = 4
SCALING = {"min_replicas": COUNT, "max_replicas": COUNT, "drain_deadline_s": DRAIN_DEADLINE_S}
RAY_ALONE = ("ray",)


@dataclass(frozen=True, slots=True)
class Blow:
    """name: what the table says. seconds: of the run. strike: does it; returns how many processes it hit. runtimes:
    where there is such a part."""

    name: str
    seconds: float
    strike: Callable[[Deployed], int]
    runtimes: Sequence[str] = RUNTIMES


def kill(class_name: str) -> Callable[[Deployed], int]:
    return lambda deployment: _signal(deployment.actor_pids(class_name)[:1], signal.SIGKILL)


def kill_server(deployment: Deployed) -> int:
    return _signal(servers(deployment)[:1], signal.SIGKILL)


def end_server(deployment: Deployed) -> int:
    return _signal(servers(deployment)[:1], signal.SIGTERM)


def servers(deployment: Deployed) -> list[int]:
    keepers = deployment.command_pids("dualmap.instances.server.keeper")
    return [pid for pid in deployment.command_pids("dualmap.instances.simulated.cli") if pid not in keepers]


def stop_for_a_while(pids_of: Callable[[Deployed], list[int]]) -> Callable[[Deployed], int]:
    def strike(deployment: Deployed) -> int:
        pids = pids_of(deployment)[:1]
        _signal(pids, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        _signal(pids, signal.SIGCONT)  # unless it was killed meanwhile, as a server is that hangs
        return len(pids)

    return strike


def drain_one(deployment: Deployed) -> int:
    """Another one is started in its place."""
    _drain(deployment, _first_ready(deployment))
    return 1


def drain_and_take_back(deployment: Deployed) -> int:
    instance_id = _first_ready(deployment)
    _drain(deployment, instance_id)
    time.sleep(DRAINED_S)
    _drain(deployment, instance_id, undo=True)
    return 1


def _first_ready(deployment: Deployed) -> str:
    return next(i for i, state in sorted(deployment.member_states().items()) if state == "ready")


def _drain(deployment: Deployed, instance_id: str, undo: bool = False) -> None:
    body = json.dumps({"instance_id": instance_id, "undo": undo}).encode()
    url = f"http://127.0.0.1:{deployment.admin_port}/admin/drain"
    urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=10).close()


def kill_gcs(deployment: Deployed) -> int:
    return _signal(deployment.command_pids("gcs_server")[:1], signal.SIGKILL)


def _signal(pids: list[int], number: int) -> int:
    hit = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            hit += 1
        except ProcessLookupError:
            continue
    return hit


def restart_gateways(deployment: Deployed) -> int:
    """Three times; 1 if each was done."""
    admin = f"http://127.0.0.1:{deployment.admin_port}"
    command = [sys.executable, "-m", "dualmap", "restart", "--gateways", "--admin", admin]
    return int(all(subprocess.run(command, check=False).returncode == 0 for _ in range(3)))


def terminate_gateway(deployment: Deployed) -> int:
    return _signal(deployment.actor_pids("GatewayActor")[:1], signal.SIGTERM)


BLOWS = (
    Blow("nothing", 30, lambda deployment: 1),
    Blow("kill -9 Rebalancer", 25, kill("Rebalancer"), RAY_ALONE),
    Blow("kill -9 Autoscaler", 25, kill("Autoscaler"), RAY_ALONE),
    Blow("kill -9 Fleet", 30, kill("Fleet")),
    Blow(f"Fleet stopped for {STOPPED_S:g} s", 40, stop_for_a_while(lambda deployment: deployment.actor_pids("Fleet"))),
    Blow("kill -9 a gateway of two", 30, kill("GatewayActor")),
    Blow("SIGTERM to a gateway of two", 30, terminate_gateway),
    Blow("dualmap restart --gateways, three times", 60, restart_gateways),
    Blow("kill -9 an instance's actor", 30, kill("InstanceActor"), RAY_ALONE),
    Blow("kill -9 a server of four", 30, kill_server),
    Blow("SIGTERM to a server of four", 30, end_server),
    Blow(f"a server of four hangs for {STOPPED_S:g} s", 40, stop_for_a_while(servers)),
    Blow(f"an instance is drained, {DRAIN_DEADLINE_S:g} s at most", 30, drain_one, RAY_ALONE),
    Blow(f"an instance is drained for {DRAINED_S:g} s", 30, drain_and_take_back, ("local",)),
    Blow("kill -9 Ray's GCS", 40, kill_gcs, RAY_ALONE),
)


@dataclass(slots=True)
class Tally:
    """Of one blow, over all seeds. after_s: times to the first token in the AFTER_S after it."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    cut_off: int = 0
    after_s: list[float] = field(default_factory=list)

    def add(self, rows: Sequence[RequestRow]) -> None:
        self.outcomes.update(row.outcome for row in rows)
        self.cut_off += sum(row.outcome is Outcome.BROKEN and row.ttft_s is not None for row in rows)
        self.after_s += [
            row.ttft_s for row in rows if row.ttft_s is not None and STRIKE_S <= row.scheduled_s < STRIKE_S + AFTER_S
        ]

    def cells(self, name: str, undisturbed_s: float) -> tuple[str, ...]:
        done, ok, shed = self.outcomes.total(), self.outcomes[Outcome.OK], self.outcomes[Outcome.SHED]
        after_s = self.p90_s
        ratio = f"{after_s / undisturbed_s:.1f}" if undisturbed_s else ""
        lost = done - ok - shed - self.cut_off
        return (name, *map(str, (done, ok, self.cut_off, lost, shed)), f"{after_s:.2f} s", ratio)

    @property
    def p90_s(self) -> float:
        return quantile(sorted(self.after_s), 0.9) if self.after_s else 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qps", type=positive, default=QPS, metavar="Q", help=f"requests a second ({QPS:g})")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="each with a deployment of its own (1)")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="blows whose names have such a part (all)"
    )
    add_runtime_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/kill"), metavar="DIR", help="for its files (runs/kill)")


def run(args: argparse.Namespace) -> int:
    """1 if it could not run, a blow hit nothing, or a history has a fault."""
    there = [blow for blow in BLOWS if args.runtime in blow.runtimes]
    blows = [blow for blow in there if any(part in blow.name for part in args.only) or blow is BLOWS[0]]
    tallies = {blow.name: Tally() for blow in blows}
    faults: list[Fault] = []
    for seed in range(args.seeds):
        out = args.out / str(seed)
        try:
            faults += _one_seed(blows, tallies, seed, out, args.qps, args.runtime)
        except DeploymentError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        _show(tallies, seed + 1, args.qps)
        for fault in faults:
            print(fault)
        print(f"{len(faults)} faults in the histories", flush=True)
    return 1 if faults else 0


def _show(tallies: dict[str, Tally], seeds: int, qps: float) -> None:
    undisturbed_s = tallies[BLOWS[0].name].p90_s
    table: list[Sequence[str]] = [
        ("", "requests", "whole", "cut off", "no answer", "shed", f"P90 in the {AFTER_S:g} s after", "ratio")
    ]
    table += [tally.cells(name, undisturbed_s) for name, tally in tallies.items()]
    print(f"\n{date.today().isoformat()}, {os.cpu_count()} cores, {qps:g} requests a second, {seeds} seeds\n")
    print("\n".join(aligned(table)), flush=True)


def _one_seed(
    blows: Sequence[Blow], tallies: dict[str, Tally], seed: int, out: Path, qps: float, runtime: str
) -> list[Fault]:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("journal*"):
        old.unlink()
    gateway = {"count": 2, "journal": str(out.absolute() / "journal.jsonl")}
    seen: list[RequestRow] = []
    with instances(runtime, COUNT) as (config, others):
        config |= {"gateway": gateway} | ({"scaling": SCALING} if others is None else {})
        with deployed(config, out, mark=others.mark if others is not None else "") as deployment:
            for number, blow in enumerate(blows):
                print(f"seed {seed}, {number + 1} of {len(blows)}: {blow.name}", flush=True)
                _await_ready(deployment)
                rows = _strike(deployment, blow, seed * len(BLOWS) + number, out, qps)
                tallies[blow.name].add(rows)
                seen += rows
    judged = [judge(read_history(path)) for path in sorted(out.glob("journal*"))]
    faults = [fault for one in judged for fault in one.faults]
    return [*faults, *row_faults(map(row_of, seen), judged, f"clients of seed {seed}")]


def _await_ready(deployment: Deployed) -> None:
    """What the blow before it broke is whole again; what is not by then, is not waited for."""
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < give_up_at:
        states = list(deployment.member_states().values())
        if states.count("ready") == len(states) == COUNT:
            return
        time.sleep(0.5)


def _strike(deployment: Deployed, blow: Blow, number: int, out: Path, qps: float) -> list[RequestRow]:
    trace, file = out / f"trace-{number}.jsonl", out / f"run-{number}.jsonl"
    write_trace(trace, synthesise(replace(WORKLOAD, qps=qps, requests=round(qps * blow.seconds), seed=number)))
    hit: list[int] = []
    timer = threading.Timer(STRIKE_S, lambda: hit.append(blow.strike(deployment)))
    timer.start()
    run_replay(trace, deployment.url, out=file, label=blow.name)
    timer.join()
    if hit != [1]:
        raise DeploymentError(f"{blow.name}: no such process was found")
    return read_run(file)[1]


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
