"""Asking a running deployment to scale, and telling how it goes until it is done."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from dualmap.router.cli.admin_call import AdminCallError, add_admin_argument, admin_call, find_admin

POLL_S = 0.5
PATIENCE_S = 10.0  # with a gateway that does not answer meanwhile

Scaling = dict[str, Any]  # of a pool, or of a role in it, as GET /admin/scaling answers


def add_pool_argument(parser: argparse.ArgumentParser) -> None:
    pool = parser.add_argument_group("pool")
    pool.add_argument(
        "--pool", metavar="NAME", help="of the instances, where several models are served (default: the first)"
    )


def add_follow_arguments(parser: argparse.ArgumentParser) -> None:
    waiting = parser.add_argument_group("waiting")
    waiting.add_argument(
        "--no-wait", action="store_true", help="return when the gateway has accepted it (default: when it is done)"
    )
    add_admin_argument(parser)


def ask_and_follow(
    args: argparse.Namespace, path: str, body: dict[str, Any], done: Callable[[list[Scaling]], bool] | None
) -> int:
    """done: is told of each role of the pool; may raise AdminCallError; None where there is nothing to wait for.
    Returns the exit code."""

    def follow(answer: dict[str, Any]) -> None:
        if done is not None:
            _follow(args.admin, answer["pool"], done)

    return ask_and_wait(args, path, body, follow)


def ask_and_wait(
    args: argparse.Namespace, path: str, body: dict[str, Any], wait: Callable[[dict[str, Any]], None]
) -> int:
    """wait: is given the answer, where the user has patience for more; may raise AdminCallError. Returns the exit
    code."""
    try:
        args.admin = find_admin(args)
        answer = admin_call(args.admin, path, body)
        print(answer["message"], flush=True)
        if not args.no_wait:
            wait(answer)
    except AdminCallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("it goes on; only the waiting has ended", file=sys.stderr)
        return 130
    return 0


def _follow(admin: str, pool_name: str, done: Callable[[list[Scaling]], bool]) -> None:
    """Print each line that differs from the one before. Raises AdminCallError."""
    line = ""
    heard_at = time.monotonic()
    while True:
        try:
            pools: list[Scaling] = admin_call(admin, "/admin/scaling")["pools"]
            scaling = [pool for pool in pools if pool["pool"] == pool_name]
        except AdminCallError:
            if time.monotonic() - heard_at > PATIENCE_S:
                raise
        else:
            heard_at = time.monotonic()
            if (told := progress(scaling)) != line:
                line = told
                print(line, flush=True)
            if done(scaling):
                print("done", flush=True)
                return
        time.sleep(POLL_S)


def progress(scalings: list[Scaling]) -> str:
    """Where things stand, in a line."""
    parts = ["; ".join(map(_progress_of, scalings))]
    restart = scalings[0]["restart"]
    if restart is not None and not restart["done"]:
        parts.append(f"restarted {len(restart['finished'])} of {len(restart['ids'])}, {restart['step']}")
    return "; ".join(parts)


def _progress_of(scaling: Scaling) -> str:
    counts: dict[str, int] = {}
    for instance in scaling["instances"]:
        counts[instance["state"]] = counts.get(instance["state"], 0) + 1
    of_role = "" if scaling["role"] == "both" else f"{scaling['role']}: "
    parts = [of_role + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))]
    parts += [
        f"requests left at {i['instance_id']}: {i['running'] + i['waiting']}"
        for i in scaling["instances"]
        if i["state"] == "draining" and i["running"] + i["waiting"]
    ]
    parts += [f"{i['instance_id']}: {i['reason']}" for i in scaling["instances"] if i["ours"] and i["reason"]]
    return "; ".join(parts)


def is_meant(instance_id: str, named: str) -> bool:
    """Whether the instance is the one named, or a rank of that server."""
    server, _, rank = instance_id.rpartition("@")
    return instance_id == named or (rank.isdecimal() and server == named)
