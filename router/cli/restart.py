"""`dualmap restart --rolling`: every instance that was started here, one after the other, each drained first.
`dualmap restart --cancel`: no further one of them.
`dualmap restart --gateways`: every gateway, each followed by one that listens before it stops."""

import argparse
import sys
import time
from typing import Any

from dualmap.router.cli.admin_call import AdminCallError, admin_call
from dualmap.router.cli.follow_scaling import (
    Scaling,
    add_follow_arguments,
    add_pool_argument,
    ask_and_follow,
    ask_and_wait,
)

EXAMPLES = (
    "dualmap restart --rolling",
    "dualmap restart --rolling --pool coder --no-wait --admin http://10.0.0.1:8081",
    "dualmap restart --cancel",
    "dualmap restart --gateways --deployment chat",
)
POLL_S = 0.5
PATIENCE_S = 120.0  # with one gateway: its process has to start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    order = parser.add_argument_group("what, one after the other, so that no request is lost (required)")
    what = order.add_mutually_exclusive_group(required=True)
    what.add_argument("--rolling", action="store_true", help="the instances that were started here: each drains first")
    what.add_argument("--cancel", action="store_true", help="restart no further instance of those of --rolling")
    what.add_argument("--gateways", action="store_true", help="the gateways: running answers end meanwhile")
    add_pool_argument(parser)
    add_follow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.gateways:
        return _restart_gateways(args)
    restart: Scaling = {}

    def done(scalings: list[Scaling]) -> bool:
        restart.update(scalings[0]["restart"] or {"done": True, "error": "the Autoscaler was restarted meanwhile"})
        return bool(restart["done"])

    code = ask_and_follow(args, "/admin/restart", {"pool": args.pool, "cancel": args.cancel}, done)
    if restart.get("error") and not args.cancel:
        print(f"error: not all were restarted: {restart['error']}", file=sys.stderr)
        return 1
    return code


def _restart_gateways(args: argparse.Namespace) -> int:
    if args.pool is not None:
        print("error: gateways serve all pools: --pool goes with --rolling", file=sys.stderr)
        return 2

    def wait(answer: dict[str, Any]) -> None:
        _await_followers(args.admin, set(answer["gateways"]))
        print("done", flush=True)

    return ask_and_wait(args, "/admin/restart-gateways", {}, wait)


def _await_followers(admin: str, before: set[str]) -> None:
    """Until each has one that follows it. Raises AdminCallError."""
    missing = {_place(gateway_id) for gateway_id in before}
    heard_at = time.monotonic()
    while missing:
        time.sleep(POLL_S)
        try:
            status: dict[str, Any] = admin_call(admin, "/admin/status")
        except AdminCallError:  # it may be on its way out
            status = {"gateways": []}
        serving = {peer["gateway_id"] for peer in status["gateways"] if not peer["leaving"]}
        for gateway_id in sorted(serving - before):
            if _place(gateway_id) in missing:
                missing.discard(_place(gateway_id))
                heard_at = time.monotonic()
                print(f"{gateway_id} serves", flush=True)
        if time.monotonic() - heard_at > PATIENCE_S:
            raise AdminCallError(f"not restarted: {', '.join(sorted(missing))}; the output of `dualmap up` may say why")


def _place(gateway_id: str) -> str:
    """Ids of gateways that follow each other differ in what is behind the dot."""
    return gateway_id.partition(".")[0]
