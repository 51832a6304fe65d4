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
