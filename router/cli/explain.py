"""`dualmap explain`: why a request went where it went, as long as the gateway remembers it."""

import argparse
import sys
from typing import Any
from urllib.parse import urlencode

from dualmap.router.cli.admin_call import AdminCallError, add_admin_argument, admin_call, find_admin
from dualmap.scheduler.request import BEFORE_ALL

REASONS = {
    "warm": "it holds more of the prompt, and that was soon enough",
    "switched": "waiting for the instance that holds more of the prompt would have cost more than computing it again",
    "balanced": "none held more of the prompt than another; this was the soonest",
    "session": "it is as good as the best one, and the last request of the client's session ran there",
    "only_one": "no other instance was left",
    "home": "it keeps what the request goes on from",
    "moved": "moved there from an instance with too much to do",
    "taken": "taken by an instance that had nothing else to do",
    "redirected": "the proxy that carries it could not reach its instance and chose this one",
    "policy": "so the policy chose",
}
EXAMPLES = (
    "dualmap explain gateway-0-17 --deployment chat",
    "dualmap explain gateway-0-17 --admin http://10.0.0.1:8081",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    request = parser.add_argument_group("request")
    request.add_argument("request_id", metavar="REQUEST_ID", help="the answer's header x-request-id")
    add_admin_argument(parser)


def run(args: argparse.Namespace) -> int:
    try:
        told = find_told(find_admin(args), args.request_id)
    except AdminCallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not told:
        print(f"error: no gateway remembers that it sent {args.request_id} anywhere", file=sys.stderr)
        return 1
    print("\n\n".join(told))
    return 0


def find_told(admin: str, request_id: str) -> list[str]:
    """What all gateways tell of it, oldest first. Raises AdminCallError if the first one does not answer."""
    query = f"/admin/decisions?{urlencode({'request_id': request_id})}"
    found = _told(request_id, admin_call(admin, query))
    for gateway in admin_call(admin, "/admin/status")["gateways"] if not found else ():
        try:
            found += _told(request_id, admin_call(f"http://{gateway['admin']}", query))
        except AdminCallError:
            continue  # it may have been the one that has died
    return found


def _told(request_id: str, answer: dict[str, Any]) -> list[str]:
    held = ["\n".join((f"{request_id} waits for an instance to come", *story)) for story in answer["held"]]
    return [*map(explained, answer["decisions"]), *held]


def explained(decision: dict[str, Any]) -> str:
    """A paragraph and a table."""
    tokens = decision["prompt_tokens"]
    what = [decision["model"], f"{tokens} prompt token{'' if tokens == 1 else 's'}"]
    what += [f"{name} {decision[name]}" for name in ("tenant", "adapter") if decision[name]]
    if priority := decision["priority"]:
        what.append("before all that waits" if priority == BEFORE_ALL else f"priority {priority}")
    lines = [
        f"{decision['request_id']}: {', '.join(part for part in what if part)}",
        f"attempt {decision['attempt']} to {decision['instance_id']} after {decision['queued_s']:.2f} s in the queue:"
        f" {REASONS[decision['reason']]}",
        f"first token expected {decision['estimated_ttft_s']:.2f} s after arrival,"
        f" {decision['cached_tokens']:,} of {tokens:,} tokens believed to be cached"
        + "".join(f", {count:,} of them in {tier}" for tier, count in decision["in_tiers"].items()),
        f"candidates of its prefix: {', '.join(decision['candidates'])}",
    ]
    if decision["tpot_slo_s"]:
        lines.append(f"objective for each output token: {_milliseconds(decision['tpot_slo_s'])}")
    lines += decision["story"][1:]  # its first line is the one above
    rows = [("INSTANCE", "CACHED", "TO COMPUTE", "PREFILL", "FIRST TOKEN", "PER TOKEN", "OBJECTIVE", "RUNNING")]
    rows += [
        (
            one["instance_id"],
            str(one["cached_tokens"]) + _in_tiers(one["loads"]),
            str(one["uncached_tokens"]),
            f"{one['prefill_s']:.2f} s",
            f"{one['total_s']:.2f} s",
            _milliseconds(one["tpot_s"]),
            _milliseconds(one["tpot_slo_s"]),
            str(one["running"]),
        )
        for one in decision["considered"]
    ]
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", "when it was placed:"]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _in_tiers(loads: dict[str, Any] | None) -> str:
    return "" if loads is None else " (" + ", ".join(f"{tokens} {tier}" for tier, tokens in loads["tokens"]) + ")"


def _milliseconds(seconds: float) -> str:
    """Empty for 0: not known, or none."""
    return f"{seconds * 1000:.0f} ms" if seconds else ""
