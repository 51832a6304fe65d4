"""A gateway without Ray in front of simulated servers, for clients that bring much load and take long."""

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.clients.client_process import counters
from tests.conftest import WAIT_S

SIM = (sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0", "--prefill-tokens-per-s")
QUICK_TOKENS_PER_S = 200_000
GATEWAY = (sys.executable, "-m", "dualmap.router.cli.standalone", "--port", "0", "--admin-port", "0")


@dataclass(frozen=True)
class Alone:
    """url: without /v1."""

    url: str
    admin_url: str

    def outcomes(self) -> dict[str, float]:
        """How many requests have ended how."""
        return {outcome: count for outcome, count in self.counted("dualmap_requests_total").items() if count}

    def counted(self, name: str) -> dict[str, float]:
        """The samples of a metric, by their only label."""
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=WAIT_S) as answer:
            return counters(answer.read().decode(), name)


@contextmanager
def alone(instances: int, *gateway: str, prefill_tokens_per_s: int = QUICK_TOKENS_PER_S) -> Iterator[Alone]:
    """gateway: further arguments of its command."""
    with ExitStack() as stack:

        def started(command: tuple[str, ...]) -> str:
            """Its first line."""
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            line = process.stdout.readline()
            assert "listening on" in line, line
            return line

        servers = [started((*SIM, str(prefill_tokens_per_s))).split()[-1] for _ in range(instances)]
        named = [word for server in servers for word in ("--instance", server)]
        line = started((*GATEWAY, *named, *gateway))
        found = re.search(r"(http://\S+?):(\d+), metrics on port (\d+)", line)
        yield Alone(f"{found[1]}:{found[2]}", f"{found[1]}:{found[3]}")
