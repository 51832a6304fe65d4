"""What is on this machine is never reached over a proxy, whatever the environment names for all else."""

import os
from collections.abc import MutableMapping

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
NAMES = ("no_proxy", "NO_PROXY")  # programs read one of them, or both
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def reach_this_machine_directly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Also from the processes that are started from here, those of Ray and vLLM among them."""
    if not any(name.lower() in PROXIES for name in environment):
        return
    given = ",".join(filter(None, (environment.get(name) for name in NAMES)))
    hosts = dict.fromkeys(filter(None, (*map(str.strip, given.split(",")), *THIS_MACHINE)))
    environment.update(dict.fromkeys(NAMES, ",".join(hosts)))
