"""The page of all policies, made from the head comments of their files."""

import inspect
import sys

from dualmap.scheduler.config import POLICY_NAMES, SchedulerConfig
from dualmap.scheduler.policies import PEERS
from dualmap.scheduler.policies.dualmap import DualMap

HEAD = """# Policies
`scheduler.policy`, `dualmap up --policy` and `dualmap simulate --policy` take these names. `dualmap` is the one to
use. The others are there to compare with: each is in a file of its own, whose head names its source, its constants
and where it differs from the source. A policy of your own is a class of your package
([how](../tutorials/write-a-policy.md)). `make reference` writes this page.

*Waits in* says where a request waits for its turn: in the gateway, where the request can still move, or in the
instance.

| policy | what it does | waits in | file |
|---|---|---|---|
"""


def policies_page() -> str:
    return HEAD + "".join(map(_row, POLICY_NAMES))


def _row(name: str) -> str:
    config = SchedulerConfig(policy=name)
    policy = DualMap if name == "dualmap" else type(PEERS[name](config))
    holds_requests = config.gateway_queue if name == "dualmap" else PEERS[name](config).holds_requests
    module = policy.__module__
    what = " ".join((inspect.getdoc(sys.modules[module]) or "").partition("\n\n")[0].split())
    file = f"{module.rpartition('.')[2]}.py"
    link = f"[{file}](../../scheduler/policies/{file})"
    return f"| `{name}` | {what} | {'gateway' if holds_requests else 'instance'} | {link} |\n"
