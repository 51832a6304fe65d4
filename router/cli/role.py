"""`dualmap role`: which part of requests an instance that others start is there for."""

import argparse

from dualmap.router.cli.admin_call import AdminCallError
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
        return is_there(scalings, args.instance_id, args.role)

    return ask_and_follow(args, "/admin/role", {"instance_id": args.instance_id, "role": args.role}, done)


def is_there(scalings: list[Scaling], named: str, role: str) -> bool:
    """Whether all that are meant have the role. Raises AdminCallError where that is not to be waited for."""
    ordered = {i: given for i, given in scalings[0]["ordered_roles"].items() if is_meant(i, named)}
    if not ordered:
        raise AdminCallError(f"{named} has left: whoever comes at its address has the role it is named with")
    rows = {row["instance_id"]: row for scaling in scalings for row in scaling["instances"]}
    for instance_id, given in ordered.items():
        row = rows.get(instance_id)  # None: it has drained, and has not come again yet
        if given != role:
            raise AdminCallError(f"{instance_id} was given the role {given} meanwhile")
        if row is not None and row["state"] == "lost":
            why = f" ({row['reason']})" if row["reason"] else ""
            raise AdminCallError(f"{instance_id} is lost{why}: it comes in the role {role} when it answers again")
    return all(i in rows and (rows[i]["state"], rows[i]["role"]) == ("ready", role) for i in ordered)
