"""`dualmap up`: starts a deployment, says where it listens, and stops it all on Ctrl-C or SIGTERM."""

import argparse
import importlib.util
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.cluster import Cluster, ClusterError
from dualmap.router.journal.writer import path_for
from dualmap.scheduler.config import POLICY_NAMES


def add_arguments(parser: argparse.ArgumentParser, serves_http: bool = True) -> None:
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="flags override what it says")
    parser.add_argument("--instance", action="append", metavar="URL", help="a running vLLM server; may be repeated")
    parser.add_argument("--model", metavar="PATH_OR_NAME", help="start vLLM servers with this model")
    parser.add_argument("--replicas", type=int, metavar="N", help="how many of them (1)")
    parser.add_argument("--engine-args", metavar="ARGS", help='of each, for `vllm serve`: "--max-model-len 8192"')
    parser.add_argument("--tensor-parallel-size", type=int, metavar="T", help="GPUs that share a model (1)")
    parser.add_argument(
        "--gpus-per-replica", type=float, metavar="G", help="GPUs of each (T where Ray has GPUs; 0: vLLM's CPU build)"
    )
    parser.add_argument("--vllm", metavar="PATH", help="the vllm command (beside our Python, or on the PATH)")
    parser.add_argument("--kv-events", action="store_true", default=None, help="let them tell what they have cached")
    parser.add_argument("--simulate", type=int, metavar="N", help="start N simulated instances")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    if serves_http:
        parser.add_argument("--port", type=int, help="port to listen on (8080)")
    parser.add_argument("--admin-port", type=int, help="port of /metrics and /admin (8081)")
    parser.add_argument("--policy", help=f"{', '.join(POLICY_NAMES)}, or an installed package's (dualmap)")
    parser.add_argument("--slo", type=float, metavar="S", help="time-to-first-token objective in seconds (5)")
    parser.add_argument("--tpot", type=float, metavar="S", help="objective for the time per output token (none)")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="write every event and what was decided")
    parser.add_argument("--log-format", choices=("console", "json"), help="of the gateways' log files (console)")
    parser.add_argument("--log-requests", action="store_true", default=None, help="a line for each request")
    parser.add_argument("--ray-address", help="a running Ray cluster to join; by default one is started here")


def run(args: argparse.Namespace) -> int:
    return deploy(args.config, overrides(args))


def deploy(path: Path | None, given: dict[str, Any]) -> int:
    """given: the sections of the configuration that flags set."""
    try:
        config = load_config(path, given)
    except ConfigFileError as error:
        print(error, file=sys.stderr)
        return 2
    if config.traces is not None and not _installed("opentelemetry.exporter.otlp.json.http"):
        print("error: traces need more packages: pip install 'dualmap[otel]'", file=sys.stderr)
        return 2
    stop = stop_on_signal()
    file = ConfigFile(path, given, config, say=lambda line: print(line, flush=True))
    signal.signal(signal.SIGHUP, lambda number, frame: file.sign.set())
    cluster = Cluster(config, say=lambda line: print(line, flush=True))
    try:
        cluster.start_instances()
        if stop.is_set():
            return 0
        port, admin_port, _ = cluster.start_gateway(config)
        host, admin_host = config.gateway.host, config.gateway.admin_host
        if config.gateway.picker is None:
            scheme = "http" if config.gateway.tls_cert_file is None else "https"
            print(f"gateway      {scheme}://{host}:{port}/v1   policy {config.scheduler.policy}", flush=True)
        else:
            print(f"picker       {host}:{port} (gRPC)   {config.gateway.picker.mode}", flush=True)
        print(f"metrics      http://{admin_host}:{admin_port}/metrics", flush=True)
        print(f"page         http://{admin_host}:{admin_port}/ui", flush=True)
        if config.gateway.journal is not None:
            print(f"journal      {path_for(config.gateway.journal, '*')}", flush=True)
        print("Ctrl-C stops everything", flush=True)
        cluster.look_after(stop, file)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        print("stopping", flush=True)
        cluster.stop()
    return 0


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def stop_on_signal() -> threading.Event:
    """Set on the first SIGINT or SIGTERM; further ones change nothing, since stopping is under way."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return stop


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The sections of the configuration that flags set."""
    values: dict[str, Any] = {
        "gateway": _given(
            host=args.host, port=getattr(args, "port", None), admin_port=args.admin_port, journal=args.journal
        ),
        "scheduler": _given(policy=args.policy, ttft_slo_s=args.slo, tpot_slo_s=args.tpot),
        "simulate": _given(count=args.simulate),
        "vllm": _given(
            model=args.model,
            replicas=args.replicas,
            engine_args=args.engine_args,
            tensor_parallel_size=args.tensor_parallel_size,
            gpus_per_replica=args.gpus_per_replica,
            executable=args.vllm,
            kv_events=args.kv_events,
        ),
        "logs": _given(format=args.log_format, requests=args.log_requests),
        "instances": args.instance,
        "ray_address": args.ray_address,
    }
    return {section: value for section, value in values.items() if value}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
