"""`dualmap restart --rolling`: every instance that was started here, one after the other, each drained first."""

import argparse
import sys

from dualmap.router.cli.follow_scaling import Scaling, add_follow_arguments, add_pool_argument, ask_and_follow

EXAMPLES = (
    "dualmap restart --rolling",
    "dualmap restart --rolling --pool coder --no-wait --admin http://10.0.0.1:8081",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    order = parser.add_argument_group("order")
    order.add_argument(
        "--rolling",
        action="store_true",
        required=True,
        help="one after the other, so that no request is lost (required)",
    )
    add_pool_argument(parser)
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    restart: Scaling = {}

    def done(scaling: Scaling) -> bool:
        restart.update(scaling["restart"] or {"done": True, "error": "the Autoscaler was restarted meanwhile"})
        return bool(restart["done"])

    code = ask_and_follow(args, "/admin/restart", {"pool": args.pool}, done)
    if restart.get("error"):
        print(f"error: not all were restarted: {restart['error']}", file=sys.stderr)
        return 1
    return code
