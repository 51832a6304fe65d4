"""`dualmap demo`: the same work through round_robin and through dualmap, on simulated instances, with a report.

The load is about 80 % of what round_robin can bear. Each policy gets the same instances with empty caches and a
gateway of its own, so nothing of the first run helps the second.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from dualmap.loadtest.cli.replay import can_replay, positive, run_replay
from dualmap.loadtest.cli.report import show_report
from dualmap.loadtest.replay.flush_cache import FlushError, flush_cache
from dualmap.loadtest.traces.load_level import round_robin_qps
from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import TraceError, TraceRequest, read_trace, write_trace
from dualmap.router.cli.up import is_refused, stop_on_signal
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.deployment.actors import ClusterError, told
from dualmap.router.deployment.cluster import Cluster
from dualmap.router.deployment.ray_access import ray_access
from dualmap.router.reach.reach import CallError

POLICIES = ("round_robin", "dualmap")
INSTANCES = 4
RUN_S = 55.0  # of arrivals for each policy: both, the start and the last answers fit in three minutes
SHARE = 0.8  # of what round_robin can bear
MAX_INPUT_TOKENS = 20_480  # as in arXiv 2602.06502
FIRST_GUESS_QPS = 5.0

# Chats short and brisk enough to have several turns within the run.
WORKLOAD = SynthConfig(
    system_prompts=12,
    first_message=Lognormal(1800, 1.0, 16, 12_288),
    answer=Lognormal(120, 0.6, 8, 600),
    think=Lognormal(6, 0.7, 1, 60),
    max_input_tokens=MAX_INPUT_TOKENS,
)
EXAMPLES = (
    "dualmap demo",
    "dualmap demo --seconds 120 --trace conversation_trace.jsonl --out runs/mooncake",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument(
        "--trace", metavar="FILE", help="replay the start of this Mooncake trace (default: chats that are made here)"
    )
    work.add_argument(
        "--seconds",
        type=positive,
        default=RUN_S,
        metavar="SECONDS",
        help="length of each of the two replays (default %(default)g)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="folder of run files and report (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    if not can_replay():
        return 2
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        config = load_config(None, {"simulate": {"count": INSTANCES}, "gateway": {"port": 0, "admin_port": 0}})
        requests, qps = demo_workload(args.trace, args.seconds, config)
    except (TraceError, ConfigFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    trace = out / "trace.jsonl"
    write_trace(trace, requests)
    print(f"{len(requests)} requests at {qps:.1f} a second, on {INSTANCES} simulated instances of a 7B-class model")
    if is_refused(config):
        return 1
    with ray_access(config.ray_address):
        return _play(config, trace, qps, out)


def _play(config: DualMapConfig, trace: Path, qps: float, out: Path) -> int:
    stop = stop_on_signal()
    cluster = Cluster(config, say=lambda line: print(line, flush=True))
    runs: list[Path] = []
    try:
        cluster.start_instances()
        for policy in POLICIES:
            if stop.is_set():
                return 130
            runs.append(out / f"{policy}.jsonl")
            if code := _replay(cluster, config, policy, trace, qps, runs[-1]):
                return code
    except (ClusterError, FlushError, CallError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    finally:
        cluster.stop()
    show_report(runs, html=out / "report.html")
    return 0


def demo_workload(trace: str | None, seconds: float, config: DualMapConfig) -> tuple[list[TraceRequest], float]:
    """The requests and the arrival rate that is SHARE of what round_robin can bear. Raises TraceError."""
    if trace is not None:
        requests = [r for r in read_trace(trace) if r.input_length <= MAX_INPUT_TOKENS]
        qps = _qps(requests, config)
        requests = requests[: max(1, round(qps * seconds))]
        return requests, _qps(requests, config)
    qps = FIRST_GUESS_QPS
    for _ in range(3):  # the rate decides how much of each chat falls into the run, and so what can be cached
        requests = synthesise(dataclasses.replace(WORKLOAD, qps=qps, requests=round(qps * seconds)))
        qps = _qps(requests, config)
    return requests, qps


def _qps(requests: Sequence[TraceRequest], config: DualMapConfig) -> float:
    capacity = config.simulate.capacity
    return round_robin_qps(
        requests,
        instances=INSTANCES,
        prefill_s_per_token=1 / capacity.prefill_tokens_per_s,
        kv_tokens=capacity.kv_tokens,
        share=SHARE,
    )


def _replay(cluster: Cluster, config: DualMapConfig, policy: str, trace: Path, qps: float, out: Path) -> int:
    print(f"\n{policy}", flush=True)
    for member in cluster.members():
        flush_cache(member.endpoint.host, member.endpoint.port)
    scheduler = dataclasses.replace(config.scheduler, policy=policy)
    port, admin_port, _ = cluster.start_gateway(config.model_copy(update={"scheduler": scheduler}))
    print(f"watch it: http://127.0.0.1:{admin_port}/ui", flush=True)
    print(f"metrics: http://127.0.0.1:{admin_port}/metrics", flush=True)
    try:
        return run_replay(
            trace,
            f"http://127.0.0.1:{port}",
            out=out,
            label=policy,
            note=f"{INSTANCES} simulated instances, {datetime.now():%Y-%m-%d}, {os.cpu_count()} cores",
            qps=qps,
            slo_s=config.scheduler.ttft_slo_s,
        )
    finally:
        cluster.stop_gateway()
