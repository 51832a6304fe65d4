"""Routers that others wrote, as the overhead benchmark starts them: `make peers` installs them.

Each places by prefix (cache_aware, its default) and logs warnings only: at their default level smg and sglang-router
write two lines a request, which would count against them.
"""

import json
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.measured_proxy import START_S, MeasuredProxy, ProxyError, running

# By name: how it is started. `python -m`, as smg and sglang-router both install a command called smg.
PEERS = {
    "vllm-router": "-m vllm_router.launch_router --log-level warning",
    "sglang-router": "-m sglang_router.launch_router --log-level warn",
    "smg": "-m smg.launch_router --log-level warn",
}
# By name: what its documentation has for cache-aware routing. smg's thresholds are its defaults; that it looks at loads
# each second and not each ten is our setting, as it sends whole bursts to one backend otherwise.
RECOMMENDED = {
    "vllm-router": "--cache-threshold 0.5 --balance-abs-threshold 32 --balance-rel-threshold 1.1",
    "sglang-router": "--cache-threshold 0.5 --balance-abs-threshold 32 --balance-rel-threshold 1.5",
    "smg": "--cache-threshold 0.3 --balance-abs-threshold 64 --balance-rel-threshold 1.5 --load-monitor-interval 1",
}
_ALIKE = "--host 127.0.0.1 --policy cache_aware --worker-startup-check-interval 1 --prometheus-host 127.0.0.1"
_ASK_AGAIN_S = 0.1
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


def peer_command(
    name: str, python: Path, port: int, metrics_port: int, backend_ports: Sequence[int], flags: str = ""
) -> list[str]:
    """How the router is started. python: of the environment that it is installed in. flags: further ones."""
    urls = [f"http://127.0.0.1:{backend}" for backend in backend_ports]
    ports = ["--port", str(port), "--prometheus-port", str(metrics_port)]
    own = (*shlex.split(PEERS[name]), *shlex.split(_ALIKE), *shlex.split(flags))
    return [str(python), *own, *ports, "--worker-urls", *urls]


def why_no_peers(environment: Path) -> str | None:
    """None where they can be run."""
    return None if (environment / "bin" / "python").exists() else f"{environment} is missing (make peers)"


@contextmanager
def peer(
    name: str, environment: Path, backend_ports: Sequence[int], folder: Path, flags: str = ""
) -> Iterator[MeasuredProxy]:
    """One of PEERS, from when it counts all backends as healthy. environment: where `make peers` installed it. Raises
    ProxyError."""
    python = environment / "bin" / "python"
    port, metrics_port = free_ports("127.0.0.1", 2)
    version = subprocess.run([python, "-c", _VERSION, name], capture_output=True, text=True, check=True).stdout.strip()
    command = peer_command(name, python, port, metrics_port, backend_ports, flags)
    with running(command, [port], folder / f"{name}.log") as pid:
        _await_healthy(name, port, len(backend_ports))
        yield MeasuredProxy(f"{name} {version}", port, pid)


def _await_healthy(name: str, port: int, count: int) -> None:
    """Each registers its backends after it has begun to answer. Raises ProxyError."""
    give_up_at = time.monotonic() + START_S
    found: object = None
    while time.monotonic() < give_up_at:
        with suppress(OSError, ValueError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readiness") as answer:
            found = json.load(answer).get("healthy_workers")
        if found == count:
            return
        time.sleep(_ASK_AGAIN_S)
    raise ProxyError(f"{name} counts {found} of {count} backends as healthy")
