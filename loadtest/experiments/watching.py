"""What it costs to watch servers: `python -m dualmap.loadtest.experiments.watching`.

For each number of stub servers, of which some may hang, a deployment names them all and idles. CPU is what the
processes used, by /proc, in shares of a core: the machine may have other work. PSS counts shared pages once.
"""

import argparse
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import psutil

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.stub_fleet import MODEL, stub_fleet
from dualmap.loadtest.reports.aligned_rows import aligned

RUNTIMES = ("ray", "local")
SIZES = (2, 16, 64, 256, 1024)
READY_S = 120.0  # until all that do not hang are ready
SETTLE_S = 10.0
IDLE_S = 30.0
AGES_S = 15.0  # for which the ages of what servers said are looked at
AGES_POLL_S = 1.0  # a status of a thousand servers takes its time
POLL_S = 0.1
MIB = 1024 * 1024
WATCHERS = ("Watcher", "InstanceActor")
ACTORS = (*WATCHERS, "Fleet", "GatewayActor")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes. cpu_s: used so far."""

    processes: int
    rss_mib: float
    pss_mib: float
    cpu_s: float


def usage(processes: Sequence[psutil.Process]) -> Usage:
    count, rss, pss, cpu_s = 0, 0, 0, 0.0
    for process in processes:
        with suppress(psutil.Error):
            memory, times = process.memory_full_info(), process.cpu_times()
            rss, pss = rss + memory.rss, pss + memory.pss
            cpu_s += times.user + times.system
            count += 1
    return Usage(count, rss / MIB, pss / MIB, cpu_s)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Of all together, so far."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(
    servers: int, hanging: int, folder: Path, source: Path | None, runtime: str, idle_s: float, ages_s: float
) -> Sequence[str]:
    """A row of the table. Raises DeploymentError, OSError."""
    with stub_fleet(servers, hanging) as fleet:
        begun_at = time.monotonic()
        chosen = {"runtime": runtime} if source is None or runtime != "ray" else {}  # older versions know none
        env = {} if source is None else {"PYTHONPATH": str(source.absolute())}
        with deployed({"instances": fleet.urls, **chosen}, folder, env) as deployment:
            await_answer(deployment)
            first_s = time.monotonic() - begun_at
            deployment.await_ready(servers - hanging)
            ready_s, spent_s = time.monotonic() - begun_at, cpu_s(deployment.processes())
            time.sleep(SETTLE_S)
            age_s = oldest(deployment, ages_s)
            everything = deployment.processes()
            groups = [[psutil.Process(pid) for pid in deployment.actor_pids(name)] for name in ACTORS]
            groups = [[*groups[0], *groups[1]], *groups[2:], everything]
            before, begun_at = [cpu_s(group) for group in groups], time.monotonic()
            time.sleep(idle_s)
            after, passed_s = [cpu_s(group) for group in groups], time.monotonic() - begun_at
            shares = [f"{(b - a) / passed_s:.1%}" for a, b in zip(before, after, strict=True)]
            watching, whole = usage(groups[0]), usage(everything)
    return (
        runtime,
        f"{servers}" + (f", {hanging} hang" if hanging else ""),
        *(str(watching.processes), f"{watching.rss_mib:.0f} MiB", f"{watching.pss_mib:.0f} MiB", *shares[:3]),
        *(str(whole.processes), f"{whole.rss_mib:.0f} MiB", f"{whole.pss_mib:.0f} MiB", shares[3]),
        *(f"{age_s:.2f} s", f"{deployment.started_s:.1f} s", f"{first_s:.1f} s", f"{ready_s:.1f} s"),
        f"{spent_s:.1f} s",
    )


HEADER = (
    *("runtime", "servers", "watching: processes", "RSS", "PSS", "CPU", "Fleet", "gateway"),
    *("all: processes", "RSS", "PSS", "CPU", "oldest load", "started", "first answer", "all ready", "CPU until then"),
)


def await_answer(deployment: Deployed) -> None:
    """Raises DeploymentError."""
    body = msgspec.json.encode({"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})
    request = urllib.request.Request(
        f"{deployment.url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    ends_at = time.monotonic() + READY_S
    while time.monotonic() < ends_at:
        try:
            urllib.request.urlopen(request, timeout=READY_S).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        time.sleep(POLL_S)
    raise DeploymentError("no request was answered")


def oldest(deployment: Deployed, within_s: float) -> float:
    """The greatest age of the last load of a ready server, of several looks at all."""
    age_s = 0.0
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        members = deployment.status()["members"]
        age_s = max([age_s, *(_age_s(member) for member in members if member["state"] == "ready")])
        time.sleep(AGES_POLL_S)
    return age_s


def _age_s(member: Mapping[str, Any]) -> float:
    return float(member.get("signals", {}).get("metrics", {}).get("age_s", 0.0))


def sizes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"must be numbers of servers, as 2,16, not {text!r}")
    return tuple(map(int, text.split(",")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listed = ",".join(map(str, SIZES))
    parser.add_argument("--servers", type=sizes, default=SIZES, metavar="N,N", help=f"how many, in turn ({listed})")
    parser.add_argument("--hanging", type=int, default=0, metavar="N", help="of them, that answer nothing (0)")
    parser.add_argument(
        "--runtime", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="of the deployment, in turn (ray local)"
    )
    parser.add_argument("--idle", type=positive, default=IDLE_S, metavar="S", help=f"that it idles ({IDLE_S:g})")
    parser.add_argument(
        "--ages", type=positive, default=AGES_S, metavar="S", help=f"that ages of loads are looked at ({AGES_S:g})"
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="src of another version to be measured")
    parser.add_argument("--out", type=Path, default=Path("runs/watching"), metavar="DIR", help="(runs/watching)")


def run(args: argparse.Namespace) -> int:
    """1 if a deployment did not start."""
    rows: list[Sequence[str]] = [HEADER]
    try:
        for count in args.servers:
            print(f"{count} servers", flush=True)
            for runtime in args.runtime:
                row = measure(count, args.hanging, args.out, args.source, runtime, args.idle, args.ages)
                rows.append(row)
                print("  ".join(row), flush=True)
    except (DeploymentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{date.today().isoformat()}, {os.cpu_count()} cores, {cpu_model()}\n")
    print("\n".join(aligned(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
