"""`dualmap status`: what the gateway says of itself on its admin port."""

import argparse
import json
import sys
from contextlib import suppress
from datetime import datetime
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

from dualmap.router.cli.admin_call import AdminCallError, add_admin_argument, admin_call, find_admin

EXAMPLES = (
    "dualmap status",
    "dualmap status --events --deployment chat",
    "dualmap status --json --admin http://10.0.0.1:8081",
)

COLUMNS = 100  # where the terminal does not say
MODELS_SHOWN = 4  # of an instance
EVENTS_SHOWN = 10  # of the last 200, unless all are asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="the gateway's answer as it came (default: a table)")
    output.add_argument(
        "--events",
        action="store_true",
        help=f"all events of the fleet that the gateway remembers, up to 200 (default: the last {EVENTS_SHOWN})",
    )
    add_admin_argument(parser)


def format_status(status: dict[str, Any], columns: int = COLUMNS) -> str:
    """A line for the gateway and a row for each member, below it the reason of its state. columns: of the terminal."""
    head = (
        f"{status['gateway_id']}  policy {status['policy']}  epoch {status['epoch']}  up {status['uptime_s']:.0f} s"
        f"  in flight {status['in_flight']}{_held(status)}  client connections {status['client_connections']}"
    )
    several = len(status["pools"]) > 1
    counted = ("RUNNING", "WAITING", "BACKLOG", "PER TOKEN", "KV TOKENS", "MODELS", "SIGNALS")
    roles = any(member.get("role", "both") != "both" for member in status["members"])
    revisions = any(member.get("revision") for member in status["members"])
    own = [*(["POOL"] if several else []), *(["ROLE"] if roles else []), *(["REVISION"] if revisions else [])]
    rows = [("INSTANCE", *own, "STATE", "FOR", "ADDRESS", *counted)]
    for member in status["members"]:
        backlog_s = ""
        if "running" in member:
            tokens = member["prefill_tokens"] + member["waiting_tokens"]
            backlog_s = f"{tokens * member['seconds_per_token']:.2f} s"
        counts = (str(member.get(name, "")) for name in ("running", "waiting"))
        per_token = f"{member['tpot_s'] * 1000:.0f} ms" if member.get("tpot_s") else ""
        kv_tokens = str(member.get("kv_tokens", ""))
        models = format_models(member["models"])
        signals = format_signals(member["signals"]) if "signals" in member else ""
        pool = [member["pool"] or "(first)"] if several else []
        pool += [member["role"]] if roles else []
        pool += [member["revision"]] if revisions else []
        state = member["condition"] or member["state"]
        place = (member["instance_id"], *pool, state, format_age(member["for_s"]), member["address"])
        rows.append((*place, *counts, backlog_s, per_token, kv_tokens, models, signals))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    lines = [next(aligned)]
    for member, line in zip(status["members"], aligned, strict=True):
        lines.append(line)
        lines += wrap(member["reason"], columns, initial_indent="  ", subsequent_indent="  ")
    beside = [f"journal {status['journal']}"] if status.get("journal") else []
    if status["models_served_twice"]:
        beside.append(f"in several pools, served by the first by name: {', '.join(status['models_served_twice'])}")
    if len(status["gateways"]) > 1:
        beside.append(
            "gateways "
            + ", ".join(f"{g['gateway_id']} ({'leaving' if g['leaving'] else g['admin']})" for g in status["gateways"])
        )
    return "\n".join((head, *beside, "", *lines))


def format_events(events: list[dict[str, Any]], most: int, columns: int = COLUMNS) -> str:
    """The last ones, oldest first, since what is below is seen first. events: newest first."""
    if not events:
        return "events  none yet"
    lines = []
    for event in reversed(events[:most]):
        at = datetime.fromtimestamp(event["at"]).astimezone().strftime("%m-%d %H:%M:%S")
        lines += wrap(f"{at}  {event['said']}", columns, subsequent_indent=" " * 16)
    more = f", of {len(events)}: --events shows all" if len(events) > most else ""
    return "\n".join((f"events  the last {min(most, len(events))}{more}", *lines))


def format_models(names: list[str]) -> str:
    """Some of them, where there are many."""
    more = len(names) - MODELS_SHOWN
    return ", ".join(names[:MODELS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def format_age(seconds: float) -> str:
    """In one unit: 12 s, 5 min, 3 h, 2 d."""
    for unit, unit_s, most_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _held(status: dict[str, Any]) -> str:
    return f" ({status['held']} wait for an instance to come)" if status.get("held") else ""


def format_scaling(scaling: dict[str, Any]) -> str:
    """Bounds and the last plan."""
    role = "" if scaling["role"] == "both" else scaling["role"]
    scales = "  ".join(("scaling", *filter(None, (scaling["pool"], role)), ""))
    if not (scaling["scaled"] or scaling["planned"]):
        return scales + "none: the instances run on their own"
    bounds = f"{scaling['min_replicas']} to {scaling['max_replicas']} instances"
    how = "by load" if scaling["automatic"] else "as told by hand"
    if scaling["automatic"] and scaling["dry_run"]:
        how += ", dry run"
    if not scaling["scaled"]:
        how += f", started by others: {scaling['wanted']} wanted"
    plans = [scaling["plans"][-1]["reason"]] if scaling["plans"] else []
    return "; ".join((f"{scales}{bounds}, {how}", *plans, *([scaling["note"]] if scaling["note"] else [])))


def format_signals(signals: dict[str, dict[str, Any]]) -> str:
    """Which there are and how old: `metrics 0.4 s, usage 3.1 s`; `none` where the gateway has only its own books."""
    texts = []
    for name, signal in signals.items():
        text = name.replace("_", " ")
        text += " none yet" if signal["age_s"] is None else f" {signal['age_s']:.1f} s"
        if signal.get("stale"):
            text += " (stale)"
        if signal.get("exact"):
            text += " (exact)"
        if signal.get("error"):
            text += f" ({signal['error']})"
        texts.append(text)
    return ", ".join(texts) or "none"


def run(args: argparse.Namespace) -> int:
    try:
        admin = find_admin(args)
        status = admin_call(admin, "/admin/status")
    except AdminCallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(status, indent=2))
        return 0
    columns = get_terminal_size((COLUMNS, 0)).columns
    print(format_status(status, columns))
    with suppress(AdminCallError):  # the Autoscaler is away, or there is none
        pools = admin_call(admin, "/admin/scaling")["pools"]
        print("\n" + "\n".join(map(format_scaling, pools)))
    events = status.get("events", [])
    print("\n" + format_events(events, len(events) if args.events else EVENTS_SHOWN, columns))
    return 0
