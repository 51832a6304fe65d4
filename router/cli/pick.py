"""`dualmap pick`: a deployment as `dualmap up` starts it, whose gateway is the endpoint picker of a proxy."""

import argparse
from typing import Any

from dualmap.router.cli import up
from dualmap.router.cli.deployment_flags import add_deployment_flags, overrides

DEFAULT_PORT = 9002  # where the Gateway API Inference Extension expects a picker
EXAMPLES = (
    "dualmap pick dualmap.yaml --grpc-port 9002 --mode immediate",
    "dualmap pick --simulate 4 --policy dualmap --slo 5 --tpot 0.05",
    "dualmap pick --instance http://10.0.0.1:8000 --host 0.0.0.0 --admin-port 8081 --ray-address auto",
    "dualmap pick dualmap.yaml --gateways 1 --gateway-name picker-a --ray-address ray://10.0.0.1:10001",
    'dualmap pick --model Qwen/Qwen2.5-7B-Instruct --replicas 4 --engine-args "--max-model-len 8192" --kv-events',
    "dualmap pick --model /models/large --tensor-parallel-size 4 --gpus-per-replica 4 --vllm /opt/vllm/bin/vllm",
    "dualmap pick --simulate 4 --journal runs/journal.jsonl.gz --deployment pick",
    "dualmap pick --simulate 4 --log-to both --log-format json --log-requests",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    proxy = parser.add_argument_group("proxy")
    proxy.add_argument(
        "--grpc-port",
        type=int,
        default=DEFAULT_PORT,
        metavar="PORT",
        help="port at which the proxy asks (default %(default)s)",
    )
    proxy.add_argument(
        "--mode",
        choices=("queued", "immediate"),
        help="hold requests until their instance has room, or send them on at once (default queued)",
    )
    add_deployment_flags(parser, serves_http=False)


def run(args: argparse.Namespace) -> int:
    return up.deploy(args.config, picker_overrides(overrides(args), args.mode, args.grpc_port))


def picker_overrides(given: dict[str, Any], mode: str | None, port: int = DEFAULT_PORT) -> dict[str, Any]:
    """What flags say, for a picker. mode: None where they do not say it."""
    picker = {"mode": mode} if mode else {}
    return {**given, "gateway": {**given.get("gateway", {}), "port": port, "picker": picker}}
