"""Hours of load with a kill every two minutes: `python -m dualmap.loadtest.experiments.soak --minutes 60`.

A deployment with two gateways and four simulated instances serves synthetic chats at half of what it could, while one
part after the other is killed. The first gateway and Fleet are left alone: of these it is sampled what they keep, and
whether that grows.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.drift import Points, drift, markdown, page, rows
from dualmap.loadtest.experiments.kill_run import kill_server
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.replay.run_file import Outcome, read_run
from dualmap.loadtest.traces.load_level import round_robin_qps
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.scheduler import InstanceCapacity

INSTANCES = 4
HALF = 0.5  # of capacity
SAMPLE_S = 10.0
WARM_SHARE = 0.25  # of the time, in which caches and windows fill
MIB = 1024 * 1024
# What the metrics of a gateway say of what it keeps.
METRICS = ("dualmap_requests_in_flight", "dualmap_client_connections", "dualmap_tasks")


def _kill_youngest(class_name: str) -> Callable[[Deployed], int]:
    def strike(deployment: Deployed) -> int:
        pids = deployment.actor_pids(class_name)[-1:]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    return strike


BLOWS: dict[str, Callable[[Deployed], int]] = {
    "a server": kill_server,
    "an instance's actor": _kill_youngest("InstanceActor"),
    "the second gateway": _kill_youngest("GatewayActor"),
    "Rebalancer": _kill_youngest("Rebalancer"),
    "Autoscaler": _kill_youngest("Autoscaler"),
}


class Samples:
    """series: by name, of the same processes all the time."""

    def __init__(self, deployment: Deployed) -> None:
        self.series: dict[str, list[tuple[float, float]]] = {}
        self._deployment = deployment
        self._begun_at = time.monotonic()
        gateway = psutil.Process(deployment.status()["pid"])
        fleet = psutil.Process(deployment.actor_pids("Fleet")[0])
        self._processes = {"gateway": gateway, "Fleet": fleet}

    def take(self) -> None:
        """What does not answer is left out."""
        now = time.monotonic() - self._begun_at
        for name, process in self._processes.items():
            with suppress(psutil.Error):
                self._note(f"{name}: resident MiB", now, process.memory_info().rss / MIB)
                self._note(f"{name}: file descriptors", now, process.num_fds())
                self._note(f"{name}: threads", now, process.num_threads())
        with suppress(OSError):
            for name, value in self._told():
                self._note(name, now, value)

    def _note(self, name: str, now: float, value: float) -> None:
        self.series.setdefault(name, []).append((now, value))

    def _told(self) -> Iterator[tuple[str, float]]:
        """Of the gateway, over its admin port. Raises OSError."""
        url = f"http://127.0.0.1:{self._deployment.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        metrics = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        for name in METRICS:
            yield f"gateway: {name.removeprefix('dualmap_').replace('_', ' ')}", float(metrics[name])
        status: dict[str, Any] = self._deployment.status()
        cached = [value for name, value in metrics.items() if name.startswith("dualmap_instance_cached_blocks{")]
        yield "gateway: blocks believed cached", sum(map(float, cached))
        yield "gateway: states kept by instances", status["kept_states"]
        yield "gateway: agreed prefix depths", status["prefix_depths"]["keys"]
        yield "Fleet: members", len(status["members"])
        yield "Fleet: gateways", len(status["gateways"])


class Kills:
    """What was struck, in turn. struck: seconds and what."""

    def __init__(self, deployment: Deployed, every_s: float) -> None:
        self.struck: list[tuple[float, str]] = []
        self._deployment = deployment
        self._every_s = every_s
        self._next = cycle(BLOWS.items())
        self._begun_at = time.monotonic()

    def strike_if_due(self) -> None:
        now = time.monotonic() - self._begun_at
        if now >= (len(self.struck) + 1) * self._every_s:
            name, blow = next(self._next)
            hit = blow(self._deployment)
            self.struck.append((now, name if hit else f"{name}, not found"))
            print(f"{now:.0f} s: kill -9 of {self.struck[-1][1]}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=positive, default=60.0, metavar="M", help="of load (60)")
    parser.add_argument("--kill-every", type=positive, default=120.0, metavar="S", help="seconds (120)")
    parser.add_argument("--sample-every", type=positive, default=SAMPLE_S, metavar="S", help="seconds (10)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), metavar="DIR", help="for its files (runs/soak)")


def run(args: argparse.Namespace) -> int:
    """1 if it could not run, or something grows."""
    seconds = args.minutes * 60.0
    args.out.mkdir(parents=True, exist_ok=True)
    trace, rows_path = args.out / "trace.jsonl", args.out / "run.jsonl"
    qps = _write_trace(trace, seconds)
    try:
        with deployed({"simulate": {"count": INSTANCES}, "gateway": {"count": 2}}, args.out) as deployment:
            samples, kills = Samples(deployment), Kills(deployment, args.kill_every)
            load = threading.Thread(
                target=run_replay, args=(trace, deployment.url), kwargs={"out": rows_path, "label": "soak"}
            )
            load.start()
            while load.is_alive():
                samples.take()
                load.join(args.sample_every)
                if load.is_alive():
                    kills.strike_if_due()
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _report(args.out, rows_path, samples.series, kills, qps, seconds)


def _write_trace(path: Path, seconds: float) -> float:
    """Requests a second."""
    capacity = InstanceCapacity()
    sample = synthesise(replace(WORKLOAD, qps=1.0, requests=2000))
    qps = round_robin_qps(
        sample, INSTANCES, 1 / capacity.prefill_tokens_per_s, kv_tokens=capacity.kv_tokens, share=HALF
    )
    write_trace(path, synthesise(replace(WORKLOAD, qps=qps, requests=max(round(qps * seconds), 1))))
    return qps


def _report(out: Path, run_file: Path, series: Mapping[str, Points], kills: Kills, qps: float, seconds: float) -> int:
    _, answered = read_run(run_file)
    outcomes = Counter(row.outcome for row in answered)
    drifts = [drift(name, points, WARM_SHARE * seconds) for name, points in series.items()]
    whole = outcomes[Outcome.OK]
    lead = (
        f"{date.today().isoformat()}, {cpu_model()}, {os.cpu_count()} cores, commit {_commit()}: {seconds / 60:.0f} "
        f"minutes, {len(answered)} requests at {qps:.2f} a second, {len(kills.struck)} kills: {whole} whole, "
        f"{outcomes[Outcome.SHED]} shed, {len(answered) - whole - outcomes[Outcome.SHED]} failed."
    )
    counts = Counter(name for _, name in kills.struck)
    marks = "Killed: " + ", ".join(f"{name} {count} times" for name, count in counts.items()) + "."
    text = f"{lead}\n\n{marks}\n\n{markdown(rows(drifts))}\n"
    (out / "soak.md").write_text(text)
    (out / "series.json").write_text(json.dumps(series))
    (out / "soak.html").write_text(page("Soak", lead, series, marks))
    print(f"\n{text}")
    growing = [one.name for one in drifts if one.grows]
    if growing:
        print(f"these grow: {', '.join(growing)}", file=sys.stderr)
    return 1 if growing else 0


def _commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
