"""`dualmap scale`: how many instances there are to be."""

import argparse
import sys

from dualmap.router.cli.admin_call import AdminCallError
from dualmap.router.cli.follow_scaling import Scaling, add_follow_arguments, add_pool_argument, ask_and_follow

EXAMPLES = (
    "dualmap scale 6",
    "dualmap scale prefill=3 decode=2",
    "dualmap scale auto --pool coder",
    "dualmap scale 2 --no-wait --admin http://10.0.0.1:8081",
    "dualmap scale 6 --deployment chat",
)
ALL = "both"  # of a pool whose instances have one number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size")
    size.add_argument(
        "replicas",
        nargs="+",
        metavar="N|auto|ROLE=N",
        help="number of instances that are started here, or of those of a role, prefill or decode; auto: by load, as"
        " configured",
    )
    add_pool_argument(parser)
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        wanted = _read(args.replicas)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    def done(scalings: list[Scaling]) -> bool:
        numbers = [(scaling, wanted[scaling["role"]]) for scaling in scalings if scaling["role"] in wanted]
        for scaling, _ in numbers:
            if scaling["note"]:
                raise AdminCallError(scaling["note"])
        return all(number is None or _is_there(scaling, number) for scaling, number in numbers)

    body = {"replicas": wanted.get(ALL, wanted), "pool": args.pool}
    nothing_to_wait_for = all(number is None for number in wanted.values())
    return ask_and_follow(args, "/admin/scale", body, None if nothing_to_wait_for else done)


def _is_there(scaling: Scaling, replicas: int) -> bool:
    if scaling["automatic"] or scaling["max_replicas"] != replicas:
        return True  # somebody has asked for something else meanwhile
    return [i["state"] for i in scaling["instances"] if i["ours"]] == ["ready"] * replicas


def _read(arguments: list[str]) -> dict[str, int | None]:
    """By role, `both` for all; None: by load. Raises ValueError."""
    wanted: dict[str, int | None] = {}
    for argument in arguments:
        role, _, number = argument.rpartition("=")
        if (role in ("", ALL) and len(arguments) > 1) or role in wanted:
            raise ValueError(f"one number for all instances, or one for each role, not {' '.join(arguments)}")
        try:
            wanted[role or ALL] = None if number == "auto" else int(number)
        except ValueError:
            raise ValueError(f"N must be a whole number or auto, not {number!r}") from None
    return wanted
