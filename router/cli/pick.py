"""`dualmap pick`: a deployment as `dualmap up` starts it, whose gateway is the endpoint picker of a proxy."""

import argparse
import importlib.util
import sys

from dualmap.router.cli import up

DEFAULT_PORT = 9002  # where the Gateway API Inference Extension expects a picker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grpc-port", type=int, default=DEFAULT_PORT, metavar="PORT", help=f"where the proxy asks ({DEFAULT_PORT})"
    )
    parser.add_argument(
        "--mode",
        choices=("queued", "immediate"),
        help="hold requests until their instance has room, or send them on at once (queued)",
    )
    up.add_arguments(parser, serves_http=False)


def run(args: argparse.Namespace) -> int:
    if any(importlib.util.find_spec(name) is None for name in ("grpc", "grpc_health", "envoy")):
        print("error: the endpoint picker needs more packages: pip install 'dualmap[picker]'", file=sys.stderr)
        return 2
    given = up.overrides(args)
    picker = {"mode": args.mode} if args.mode else {}
    given["gateway"] = {**given.get("gateway", {}), "port": args.grpc_port, "picker": picker}
    return up.deploy(args.config, given)
