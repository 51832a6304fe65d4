"""A load from a process of its own, so that its CPU is not the proxy's."""

import json
import subprocess
import sys

import msgspec

from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.measured_proxy import ProxyError

LOAD_TIMEOUT_S = 300.0  # a load takes seconds, but on a busy machine
HTTP = "dualmap.loadtest.overhead.load"


def send(load: Load, to: str, client: str = HTTP, timeout_s: float = LOAD_TIMEOUT_S) -> None:
    """Returns when all is answered. to: the proxy, in messages. client: the module that sends. Raises ProxyError."""
    command = [sys.executable, "-m", client, msgspec.json.encode(load).decode()]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout_s, check=True).stdout
    except subprocess.SubprocessError as error:
        raise ProxyError(f"the load on {to} did not end: {error}") from error
    result = json.loads(output)
    if result["failed"]:
        raise ProxyError(f"{result['failed']} of {load.requests} requests to {to} failed: {result['first_failure']}")
