"""Calls of the command line to a gateway's admin port."""

import argparse
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from ipaddress import ip_address
from typing import Any

from dualmap.router.config.instance_url import is_ip
from dualmap.router.deployment.running import running

TIMEOUT_S = 20.0
DEFAULT_ADMIN = "http://127.0.0.1:8081"


class AdminCallError(Exception):
    """It was refused, or nobody answered; the message is for the person who asked."""


def add_admin_argument(parser: argparse.ArgumentParser) -> None:
    gateway = parser.add_argument_group(
        "gateway", "Where it wants a token, DUALMAP_ADMIN_TOKEN in the environment is sent along."
    )
    gateway.add_argument(
        "--admin",
        metavar="URL",
        help="admin address of one of the deployment's gateways (default: of the one that runs on this machine, else"
        f" {DEFAULT_ADMIN})",
    )
    gateway.add_argument(
        "--deployment", metavar="NAME", help="where several run on this machine (default: the only one)"
    )


def find_admin(args: argparse.Namespace) -> str:
    """Of the deployment that is meant. Raises AdminCallError."""
    if args.admin:
        return str(args.admin)
    known = running()
    found = [one for one in known if args.deployment in (None, one.name)]
    if args.deployment is None and not known:
        return DEFAULT_ADMIN
    if len(found) == 1:
        if not found[0].admin:
            raise AdminCallError(f"{found[0].describe()}")
        return found[0].admin
    listed = "; ".join(one.describe() for one in known) or "none"
    what = f"no deployment named {args.deployment} runs" if not found else "several deployments run"
    raise AdminCallError(
        f"{what} on this machine: name one with --deployment, or its --admin address. There are: {listed}"
    )


def admin_call(admin: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """POST with a body, else GET; DUALMAP_ADMIN_TOKEN is sent along. Raises AdminCallError."""
    if "://" not in admin:
        raise AdminCallError(
            f"no gateway answers at {admin}: an admin address is http://HOST:PORT or https://HOST:PORT"
        )
    data = None if body is None else json.dumps(body).encode()
    headers = {} if data is None else {"Content-Type": "application/json"}
    if token := os.environ.get("DUALMAP_ADMIN_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        request = urllib.request.Request(admin.rstrip("/") + path, data, headers)
        with _opener(request.host).open(request, timeout=TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        other = f" {admin} may be no admin port: gateway.admin_port, 8081 by default." if error.code == 404 else ""
        raise AdminCallError(_message(error) + other) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise AdminCallError(f"no gateway answers at {admin}: {str(error).strip()}") from None


def _opener(authority: str) -> urllib.request.OpenerDirector:
    """What is on this machine is not reached over a proxy of the environment."""
    host = urllib.parse.urlsplit(f"//{authority}").hostname or ""
    local = host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"
