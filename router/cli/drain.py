"""`dualmap drain`: give an instance no new requests; one that was started here stops when it has no more."""

import argparse
from typing import Any

from dualmap.router.cli.follow_scaling import Scaling, add_follow_arguments, ask_and_follow, is_meant

EXAMPLES = (
    "dualmap drain vllm-1",
    "dualmap drain vllm-1 --undo --deployment chat",
    "dualmap drain 10.0.0.2:8000 --no-wait --admin http://10.0.0.1:8081",
    "dualmap drain 10.0.0.2:8000@3",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    instance = parser.add_argument_group("instance")
    instance.add_argument("instance_id", metavar="ID", help="as in `dualmap status`; HOST:PORT: all ranks of a server")
    instance.add_argument("--undo", action="store_true", help="give it requests again (default: give it no more)")
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    def done(scalings: list[Scaling]) -> bool:
        rows = (row for scaling in scalings for row in scaling["instances"])
        return all(map(is_done, (row for row in rows if is_meant(row["instance_id"], args.instance_id))))

    def is_done(row: dict[str, Any]) -> bool:
        if args.undo:
            return bool(row["state"] == "ready")
        return not row["leaving"] and row["state"] != "ready" and not row["running"] + row["waiting"]

    return ask_and_follow(args, "/admin/drain", {"instance_id": args.instance_id, "undo": args.undo}, done)
