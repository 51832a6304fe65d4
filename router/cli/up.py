"""`dualmap up`: starts a deployment, says where it listens, and stops it all on Ctrl-C or SIGTERM."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from dualmap.router.cli.deployment_flags import add_deployment_flags, overrides
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.reload import ConfigFile
from dualmap.router.config.runtime import uses_ray
from dualmap.router.deployment.actors import ClusterError, told
from dualmap.router.deployment.cluster import Cluster
from dualmap.router.deployment.joined import Joined
from dualmap.router.deployment.preflight import cannot_start
from dualmap.router.deployment.ray_access import ray_access
from dualmap.router.deployment.running import Home, home, reached_at
from dualmap.router.deployment.start_folder import start_folder
from dualmap.router.journal.writer import path_for
from dualmap.router.observe.standard_output import ShowLines, as_shown
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.fleet.endpoint import host_port

EXAMPLES = (
    "dualmap up dualmap.yaml --host 0.0.0.0 --port 8080 --admin-port 8081",
    "dualmap up --instance http://10.0.0.1:8000 --instance http://10.0.0.2:8000 --slo 5 --tpot 0.05",
    "dualmap up --prefill http://10.0.0.1:8000 --decode http://10.0.0.2:8000",
    "dualmap up --kv-connector mooncake --prefill http://10.0.0.1:8000 --decode http://10.0.0.2:8000",
    'dualmap up --model Qwen/Qwen2.5-7B-Instruct --replicas 4 --engine-args "--max-model-len 8192"',
    "dualmap up --model /models/large --tensor-parallel-size 4 --kv-events --ray-address auto",
    "dualmap up --model /models/tiny --gpus-per-replica 0 --vllm .venv-vllm/bin/vllm",
    "dualmap up dualmap.yaml --gateways 0 --ray-address 127.0.0.1:6379",
    "dualmap up dualmap.yaml --gateways 2 --gateway-name rack-3 --ray-address ray://10.0.0.1:10001",
    "dualmap up --simulate 4 --policy round_robin --journal runs/journal.jsonl.gz",
    "dualmap up --simulate 4 --log-to stdout --log-format json --log-requests",
    "dualmap up chat.yaml --deployment chat",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_deployment_flags(parser)


def run(args: argparse.Namespace) -> int:
    return deploy(args.config, overrides(args))


def deploy(path: Path | None, given: dict[str, Any]) -> int:
    """given: the sections of the configuration that flags set. Returns the exit code."""
    try:
        config = load_config(path, given)
    except ConfigFileError as error:
        print(error, file=sys.stderr)
        return 2
    if is_refused(config):
        return 1
    name = config.deployment or ""
    try:
        with ExitStack() as stack:
            here = stack.enter_context(home(name))
            logs = stack.enter_context(start_folder(config.log_dir, name, config.logs.max_starts))
            here.tell(log_dir=str(logs))
            if config.logs.form.shown:
                stack.callback(ShowLines(logs).close)
            stack.enter_context(as_shown(config.logs.form))
            if uses_ray(config):
                stack.enter_context(ray_access(config.ray_address))
            config = config.model_copy(update={"log_dir": logs})
            return _deploy(config, path, {**given, "log_dir": str(logs)}, here)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _deploy(config: DualMapConfig, path: Path | None, given: dict[str, Any], here: Home) -> int:
    stop = stop_on_signal()
    say = partial(print, flush=True)
    cluster = (Joined if config.joins else Cluster)(config, say)
    file = ConfigFile(path, given, config, say, tell=cluster.events.tell)
    signal.signal(signal.SIGHUP, lambda number, frame: file.sign.set())
    try:
        cluster.start_instances()
        if stop.is_set():
            return 0
        if config.gateway.count:
            _start_gateways(cluster, config, say, here)
        else:
            say("gateways     none here: those of other hosts join over ray://")
        say("Ctrl-C stops everything")
        cluster.look_after(stop, file)
    except (CallError, ClusterError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    finally:
        say("stopping")
        cluster.stop()
    return 0


def _start_gateways(cluster: Cluster | Joined, config: DualMapConfig, say: Callable[[str], None], here: Home) -> None:
    """Raises ClusterError, CallError."""
    port, admin_port, _ = cluster.start_gateway(config)
    host, admin_host = config.gateway.host, config.gateway.admin_host
    if config.gateway.picker is None:
        scheme = "http" if config.gateway.tls_cert_file is None else "https"
        say(f"gateway      {scheme}://{host_port(host, port)}/v1   policy {config.scheduler.policy}")
    else:
        say(f"picker       {host_port(host, port)} (gRPC)   {config.gateway.picker.mode}")
    say(f"metrics      http://{host_port(admin_host, admin_port)}/metrics")
    say(f"page         http://{host_port(admin_host, admin_port)}/ui")
    if config.gateway.journal is not None:
        say(f"journal      {path_for(config.gateway.journal, '*')}")
    here.tell(admin=f"http://{host_port(reached_at(admin_host), admin_port)}")


def is_refused(config: DualMapConfig) -> bool:
    """Whether this machine lacks something that the deployment needs; a line on stderr says what."""
    reasons = list(cannot_start(config))
    for why in reasons:
        print(f"error: {why}", file=sys.stderr)
    return bool(reasons)


def stop_on_signal() -> threading.Event:
    """Set on the first SIGINT or SIGTERM; further ones change nothing, since stopping is under way."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return stop
