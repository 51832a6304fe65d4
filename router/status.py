"""`dualmap status`: what the gateway says of itself on its admin port."""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--admin", default="http://127.0.0.1:8081", metavar="URL", help="the gateway's admin address")
    parser.add_argument("--json", action="store_true", help="the answer as it came")


def format_status(status: dict[str, Any]) -> str:
    """A line for the gateway and a row for each member."""
    head = (
        f"{status['gateway_id']}  policy {status['policy']}  epoch {status['epoch']}  up {status['uptime_s']:.0f} s"
        f"  in flight {status['in_flight']}  client connections {status['client_connections']}"
    )
    rows = [("INSTANCE", "STATE", "ADDRESS", "RUNNING", "WAITING", "BACKLOG", "KV TOKENS", "MODELS", "SIGNALS")]
    for member in status["members"]:
        backlog_s = ""
        if "running" in member:
            tokens = member["prefill_tokens"] + member["waiting_tokens"]
            backlog_s = f"{tokens * member['seconds_per_token']:.2f} s"
        counts = (str(member.get(name, "")) for name in ("running", "waiting"))
        kv_tokens = str(member.get("kv_tokens", ""))
        models = ", ".join(member["models"])
        signals = format_signals(member["signals"]) if "signals" in member else ""
        place = (member["instance_id"], member["state"], member["address"])
        rows.append((*place, *counts, backlog_s, kv_tokens, models, signals))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    journal = (f"journal {status['journal']}",) if status.get("journal") else ()
    return "\n".join((head, *journal, "", *lines))


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
    request = urllib.request.Request(f"{args.admin.rstrip('/')}/admin/status")
    if token := os.environ.get("DUALMAP_ADMIN_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            status: dict[str, Any] = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"error: no gateway's status at {args.admin}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(status, indent=2) if args.json else format_status(status))
    return 0
