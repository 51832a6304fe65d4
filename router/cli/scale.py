"""`dualmap scale`: how many instances there are to be."""

import argparse
import sys

from dualmap.router.cli.admin_call import AdminCallError
from dualmap.router.cli.follow_scaling import Scaling, add_follow_arguments, add_pool_argument, ask_and_follow

EXAMPLES = (
    "dualmap scale 6",
    "dualmap scale auto --pool coder",
    "dualmap scale 2 --no-wait --admin http://10.0.0.1:8081",
    "dualmap scale 6 --deployment chat",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size")
    size.add_argument(
        "replicas", metavar="N|auto", help="number of instances that are started here; auto: by load, as configured"
    )
    add_pool_argument(parser)
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.replicas == "auto":
        return ask_and_follow(args, "/admin/scale", {"replicas": None, "pool": args.pool}, None)
    try:
        replicas = int(args.replicas)
    except ValueError:
        print(f"error: N must be a whole number or auto, not {args.replicas!r}", file=sys.stderr)
        return 2

    def done(scaling: Scaling) -> bool:
        if scaling["note"]:
            raise AdminCallError(scaling["note"])
        if scaling["automatic"] or scaling["max_replicas"] != replicas:
            return True  # somebody has asked for something else meanwhile
        return [i["state"] for i in scaling["instances"] if i["ours"]] == ["ready"] * replicas

    return ask_and_follow(args, "/admin/scale", {"replicas": replicas, "pool": args.pool}, done)
