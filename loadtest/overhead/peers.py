"""Routers that others wrote, as the overhead benchmark starts them: `make peers` installs them.

Each places by prefix (cache_aware, its default) and logs warnings only: at their default level smg and sglang-router
write two lines a request, which would count against them.
"""

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.measured_proxy import MeasuredProxy, running

# By name: how it is started. `python -m`, as smg and sglang-router both install a command called smg.
PEERS = {
    "vllm-router": "-m vllm_router.launch_router --log-level warning",
    "sglang-router": "-m sglang_router.launch_router --log-level warn",
    "smg": "-m smg.launch_router --log-level warn",
}
_ALIKE = "--host 127.0.0.1 --policy cache_aware --worker-startup-check-interval 1 --prometheus-host 127.0.0.1"
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


def peer_command(name: str, python: Path, port: int, metrics_port: int, backend_ports: Sequence[int]) -> list[str]:
    """How the router is started. python: of the environment that it is installed in."""
    urls = [f"http://127.0.0.1:{backend}" for backend in backend_ports]
    ports = ["--port", str(port), "--prometheus-port", str(metrics_port)]
    return [str(python), *shlex.split(PEERS[name]), *shlex.split(_ALIKE), *ports, "--worker-urls", *urls]


@contextmanager
def peer(name: str, environment: Path, backend_ports: Sequence[int], folder: Path) -> Iterator[MeasuredProxy]:
    """One of PEERS, from when it answers. environment: where `make peers` installed it. Raises ProxyError."""
    python = environment / "bin" / "python"
    port, metrics_port = free_ports("127.0.0.1", 2)
    version = subprocess.run([python, "-c", _VERSION, name], capture_output=True, text=True, check=True).stdout.strip()
    command = peer_command(name, python, port, metrics_port, backend_ports)
    with running(command, [port], folder / f"{name}.log") as pid:
        yield MeasuredProxy(f"{name} {version}", port, pid)
