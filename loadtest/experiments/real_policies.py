"""Policies in front of real vLLM servers.

    python -m dualmap.loadtest.experiments.real_policies --vllm PATH --model PATH

The same multi-turn chats go through a gateway with each policy. The servers stay the same and their prefix caches are
emptied in between. What was found cached is told by the servers' own counters, not by the gateway.
"""

import argparse
import asyncio
import dataclasses
import os
import sys
from datetime import date
from pathlib import Path
from typing import NamedTuple

import psutil

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from dualmap.instances.server.server_client import get_once
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.replay.flush_cache import FlushError, flush_cache
from dualmap.loadtest.replay.run_file import read_run
from dualmap.loadtest.reports.summary import RunSummary, summarise
from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.router.cli.up import stop_on_signal
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.cluster import Cluster
from dualmap.scheduler.fleet.member import Member

POLICIES = "round_robin,least_loaded,dualmap"
REPLICAS = 2
QPS = 1.6
RUN_S = 120.0
SLO_S = 2.0
BLOCK_TOKENS = 128  # the prompts are short
SCRAPE_TIMEOUT_S = 2.0
ENGINE_ARGS = (
    "--enforce-eager --max-model-len 16384 --max-num-seqs 32 --block-size 32 --num-gpu-blocks-override 2000"
    " --served-model-name model"
)
# Chats short and brisk enough for a model of 29 million parameters on one core.
WORKLOAD = SynthConfig(
    system_prompts=6,
    system_tokens=Lognormal(400, 0.4, 128, 1024),
    first_message=Lognormal(500, 0.8, 16, 2500),
    next_message=Lognormal(120, 0.8, 8, 1000),
    answer=Lognormal(24, 0.5, 4, 64),
    think=Lognormal(6, 0.7, 1, 40),
    mean_turns=5,
    max_input_tokens=4000,
)


class PolicyRun(NamedTuple):
    """hit_rate: of prompt tokens, by the servers' own counters. cpu_s: of the gateway's process, over the replay."""

    policy: str
    summary: RunSummary
    hit_rate: float
    cpu_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vllm", default="vllm", metavar="PATH", help="the vllm command")
    parser.add_argument("--model", required=True, metavar="PATH_OR_NAME")
    parser.add_argument("--engine-args", default=ENGINE_ARGS, metavar="ARGS", help=f"default: {ENGINE_ARGS}")
    parser.add_argument("--replicas", type=int, default=REPLICAS, metavar="N", help=f"servers ({REPLICAS})")
    parser.add_argument("--policy", default=POLICIES, metavar="A,B", help=POLICIES)
    parser.add_argument("--qps", type=positive, default=QPS, metavar="Q", help=f"mean arrival rate ({QPS:g})")
    parser.add_argument("--seconds", type=positive, default=RUN_S, metavar="S", help=f"of each replay ({RUN_S:g})")
    parser.add_argument("--slo", type=positive, default=SLO_S, metavar="S", help=f"to the first token ({SLO_S:g})")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), metavar="DIR", help="runs/real")
    parser.add_argument("--block-tokens", type=int, default=BLOCK_TOKENS, metavar="N", help=f"{BLOCK_TOKENS}")
    parser.add_argument("--exact", action="store_true", help="prompts by their tokens, caches by KV events")


def run(args: argparse.Namespace) -> int:
    """0 done; 1 it failed; 2 it could not start."""
    sections = {
        "vllm": {
            "model": args.model,
            "replicas": args.replicas,
            "executable": args.vllm,
            "engine_args": args.engine_args,
            "kv_events": args.exact,
            "env": {"VLLM_SERVER_DEV_MODE": "1"},  # for /reset_prefix_cache
        },
        "scheduler": {"ttft_slo_s": args.slo, "block_tokens": args.block_tokens},
        "gateway": {"port": 0, "admin_port": 0, "tokenizer": args.model if args.exact else None},
    }
    try:
        config = load_config(None, sections)
    except ConfigFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    requests = synthesise(dataclasses.replace(WORKLOAD, qps=args.qps, requests=round(args.qps * args.seconds)))
    trace = args.out / "trace.jsonl"
    write_trace(trace, requests)
    stop = stop_on_signal()
    cluster = Cluster(config, say=lambda line: print(line, file=sys.stderr, flush=True))
    runs: list[PolicyRun] = []
    try:
        cluster.start_instances()
        for policy in args.policy.split(","):
            if stop.is_set():
                return 130
            runs.append(measure(cluster, with_policy(config, policy), policy, trace, args))
    except (ClusterError, FlushError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        cluster.stop()
    model = Path(args.model).name
    print(
        f"\n{args.replicas} vLLM servers with {model}, {len(requests)} requests at {args.qps:g} a second,"
        f" {date.today().isoformat()}, {cpu_model()}, {os.cpu_count()} cores\n"
    )
    print(table(runs))
    return 0 if all(run.summary.ok == run.summary.requests for run in runs) else 1


def with_policy(config: DualMapConfig, policy: str) -> DualMapConfig:
    """Raises ConfigError for an unknown policy."""
    return config.model_copy(update={"scheduler": dataclasses.replace(config.scheduler, policy=policy)})


def measure(cluster: Cluster, config: DualMapConfig, policy: str, trace: Path, args: argparse.Namespace) -> PolicyRun:
    """Raises ClusterError, FlushError."""
    members = cluster.members()
    for member in members:
        flush_cache(member.endpoint.host, member.endpoint.port)
    before = [counters(member) for member in members]
    out = args.out / f"{policy}.jsonl"
    port, _, pid = cluster.start_gateway(config)
    gateway = psutil.Process(pid)
    cpu_before_s = sum(gateway.cpu_times()[:2])
    try:
        if run_replay(trace, f"http://127.0.0.1:{port}", out=out, label=policy, slo_s=args.slo, api="completions"):
            raise ClusterError(f"the replay with {policy} failed")
        cpu_s = sum(gateway.cpu_times()[:2]) - cpu_before_s
    finally:
        cluster.stop_gateway()
    after = [counters(member) for member in members]
    hits = sum(b.prefix_hits_tokens - a.prefix_hits_tokens for a, b in zip(before, after, strict=True))
    queries = sum(b.prefix_queries_tokens - a.prefix_queries_tokens for a, b in zip(before, after, strict=True))
    label = f"{policy}, exact blocks" if args.exact else policy
    return PolicyRun(label, summarise(*read_run(out), args.slo), hits / queries if queries else 0.0, cpu_s)


def counters(member: Member) -> ServerMetrics:
    """Raises ClusterError."""
    text = asyncio.run(get_once(member.endpoint, "/metrics", SCRAPE_TIMEOUT_S))
    metrics = None if text is None else read_metrics(text)
    if metrics is None:
        raise ClusterError(f"{member.instance_id} gives no metrics")
    return metrics


def table(runs: list[PolicyRun]) -> str:
    """In Markdown."""
    rows = [
        "| policy | found cached, by vLLM | TTFT P50 | P90 | P99 | time per token | gateway's CPU | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy, summary, hit_rate, cpu_s in runs:
        rows.append(
            f"| {policy} | {hit_rate:.1%} | {summary.ttft_p50_s:.2f} s | {summary.ttft_p90_s:.2f} s |"
            f" {summary.ttft_p99_s:.2f} s | {summary.mean_inter_token_s * 1000:.0f} ms |"
            f" {1000 * cpu_s / summary.requests:.1f} ms a request | {summary.failed} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
