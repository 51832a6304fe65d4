"""`dualmap role`: which part of requests an instance that others start is there for."""

import argparse

from dualmap.router.cli.follow_scaling import Scaling, add_follow_arguments, ask_and_follow, is_meant
from dualmap.scheduler.role import Role

EXAMPLES = (
    "dualmap role 10.0.0.2:8000 prefill",
    "dualmap role 10.0.0.2:8000@3 both --no-wait --admin http://10.0.0.1:8081",
    "dualmap role 10.0.0.2:8000 decode --deployment chat",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    instance = parser.add_argument_group("instance")
    instance.add_argument("instance_id", metavar="ID", help="as in `dualmap status`; HOST:PORT: all ranks of a server")
    instance.add_argument(
        "role",
        choices=[role.value for role in Role],
        help="it drains, and comes again as this; its server has to be able to",
    )
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    def done(scalings: list[Scaling]) -> bool:
        rows = [row for scaling in scalings for row in scaling["instances"]]
        meant = [row for row in rows if is_meant(row["instance_id"], args.instance_id)]
        return bool(meant) and all((row["state"], row["role"]) == ("ready", args.role) for row in meant)

    return ask_and_follow(args, "/admin/role", {"instance_id": args.instance_id, "role": args.role}, done)
