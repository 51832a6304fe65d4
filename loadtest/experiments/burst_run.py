"""A burst against a deployment that scales itself: `python -m dualmap.loadtest.experiments.burst_run`.

Synthetic chats at an even rate, three times as many for two minutes, and the even rate again, open loop through
`dualmap up` with simulated instances, two to six of them: who came and went beside the load, and what clients saw.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path

from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.deployed import DeploymentError, StateLog, deployed
from dualmap.loadtest.experiments.played_scaler import PlayedScaler
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.url_servers import add_runtime_argument, instances
from dualmap.loadtest.replay.run_file import Outcome, read_run
from dualmap.loadtest.reports.summary import summarise
from dualmap.loadtest.reports.timeline_page import Served, timeline_page
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import TraceRequest, write_trace

FACTOR = 3
BURST_S = 120.0
SLO_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--qps", type=positive, default=2.5, metavar="Q", help="requests a second outside the burst")
    parser.add_argument("--before", type=positive, default=60.0, metavar="S", help="seconds before the burst (60)")
    parser.add_argument("--after", type=positive, default=150.0, metavar="S", help="seconds after it (150)")
    parser.add_argument("--min", type=int, default=2, metavar="N", help="least instances (2)")
    parser.add_argument("--max", type=int, default=6, metavar="N", help="most instances (6)")
    add_runtime_argument(parser)
    parser.add_argument("--fixed", type=int, metavar="N", help="so many instances throughout, for comparison")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/burst"), metavar="DIR", help="for its files (runs/burst)"
    )


def run(args: argparse.Namespace) -> int:
    """0 no request failed; 1 some did, or it could not run."""
    args.out.mkdir(parents=True, exist_ok=True)
    trace, run_file = args.out / "trace.jsonl", args.out / "run.jsonl"
    requests = burst_requests(args.qps, args.before, args.after)
    write_trace(trace, requests)
    elastic = args.fixed is None
    bounds = {"scaling": {"min_replicas": args.min, "max_replicas": args.max}}
    scaling = bounds if elastic and args.runtime == "ray" else {}
    what = f"{args.fixed} instances" if args.fixed else f"{args.min} to {args.max} instances"
    print(f"{len(requests)} requests, {args.qps:g}/s and {FACTOR} times that for {BURST_S:g} s, {what}", flush=True)
    try:
        with (
            instances(args.runtime, args.fixed or args.min) as (config, servers),
            deployed(config | scaling, args.out) as deployment,
            StateLog(deployment) as log,
            ExitStack() as stack,
        ):
            deployment.await_ready(args.fixed or args.min)
            if servers is not None and elastic:
                stack.callback(PlayedScaler(deployment, servers, args.min, args.max).close)
            began = time.monotonic()
            code = run_replay(trace, deployment.url, out=run_file, label=what, slo_s=SLO_S)
            ended = time.monotonic()
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if code:
        return code
    samples = [(at - began, counts) for at, counts in log.samples if began <= at <= ended]
    header, rows = read_run(run_file)
    found = summarise(header, rows, SLO_S)
    instance_s = sum(_there(counts) for _, counts in samples)
    failed = [row for row in rows if row.outcome is not Outcome.OK]
    verdict = (
        f"{found.attainment:.1%} within {SLO_S:g} s, P90 {found.ttft_p90_s:.2f} s, {len(failed)} of {found.requests}"
        f" failed, {instance_s} instance-seconds in {ended - began:.0f} s"
    )
    print(f"{date.today().isoformat()}, {os.cpu_count()} cores: {verdict}")
    page = args.out / "burst.html"
    served = [Served(row.scheduled_s, row.ttft_s if row.outcome is Outcome.OK else None) for row in rows]
    there = [(at, counts.get("ready", 0), _there(counts)) for at, counts in samples]
    burst = (args.before, args.before + BURST_S)
    page.write_text(timeline_page("A burst", served, there, verdict, SLO_S, burst), encoding="utf-8")
    print(f"report: {page}")
    return 1 if failed else 0


def _there(counts: dict[str, int]) -> int:
    """Instances that cost something."""
    return sum(n for state, n in counts.items() if state != "lost")


def burst_requests(qps: float, before_s: float, after_s: float) -> list[TraceRequest]:
    """In order of arrival. The burst is of other chats, which end with it."""
    whole_s = before_s + BURST_S + after_s
    found = _chats(qps, whole_s, seed=1)
    for seed in range(2, 1 + FACTOR):
        first_id = 1 + max(max(r.hash_ids) for r in found)
        for request in _chats(qps, BURST_S, seed):
            ids = tuple(first_id + block for block in request.hash_ids)
            at_ms = request.timestamp_ms + round(before_s * 1000)
            found.append(replace(request, timestamp_ms=at_ms, hash_ids=ids))
    return sorted(found, key=lambda request: request.timestamp_ms)


def _chats(qps: float, seconds: float, seed: int) -> list[TraceRequest]:
    requests = synthesise(replace(WORKLOAD, qps=qps, requests=round(qps * seconds), seed=seed))
    return [request for request in requests if request.timestamp_ms <= seconds * 1000]


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
