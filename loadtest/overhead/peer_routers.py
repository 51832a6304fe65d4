"""Routers that others wrote, from the environment that `make peers` makes: how each is started in front of servers."""

import http.client
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.measured_proxy import MeasuredProxy, ProxyError, running

ENVIRONMENT = Path(".venv-peers")
_REGISTER_S = 60.0
_ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class PeerRouter:
    """One router.

    name: of its package. module: that Python runs, and its subcommand; scripts of two of the packages have one name.
    recommended: the flags that its documentation has for cache-aware routing; for smg these are its defaults.
    """

    name: str
    module: tuple[str, ...]
    recommended: tuple[str, ...]


def _cache_aware(threshold: str, absolute: str, relative: str) -> tuple[str, ...]:
    return (
        *("--policy", "cache_aware", "--cache-threshold", threshold),
        *("--balance-abs-threshold", absolute, "--balance-rel-threshold", relative),
    )


PEER_ROUTERS = (
    PeerRouter("vllm-router", ("vllm_router.launch_router",), _cache_aware("0.5", "32", "1.1")),
    PeerRouter("smg", ("smg", "launch"), _cache_aware("0.3", "64", "1.5")),
    PeerRouter("sglang-router", ("sglang_router", "launch"), _cache_aware("0.5", "32", "1.5")),
)


def why_no_peers(environment: Path = ENVIRONMENT) -> str | None:
    """None where they can be run."""
    return None if (environment / "bin/python").exists() else f"{environment} is missing (make peers)"


def peer_command(
    peer: PeerRouter, port: int, ports: Sequence[int], flags: Sequence[str] = (), environment: Path = ENVIRONMENT
) -> list[str]:
    """ports: of the servers. flags: beside the places. Its own metrics go to a free port."""
    (metrics_port,) = free_ports("127.0.0.1", 1)
    return [
        *(str(environment / "bin/python"), "-m", *peer.module),
        *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)),
        *("--worker-urls", *(f"http://127.0.0.1:{server}" for server in ports)),
        *flags,
    ]


@contextmanager
def peer_router(
    peer: PeerRouter, ports: Sequence[int], folder: Path, flags: Sequence[str] = (), environment: Path = ENVIRONMENT
) -> Iterator[MeasuredProxy]:
    """From when it counts every server as healthy. flags: its defaults where there are none. Raises ProxyError."""
    (port,) = free_ports("127.0.0.1", 1)
    with running(peer_command(peer, port, ports, flags, environment), [port], folder / f"{peer.name}.log") as pid:
        give_up_at = time.monotonic() + _REGISTER_S
        while (found := _healthy_servers(port)) != len(ports):
            if time.monotonic() > give_up_at:
                raise ProxyError(f"{peer.name} counts {found} of {len(ports)} servers as healthy")
            time.sleep(_ASK_AGAIN_S)
        yield MeasuredProxy(peer_version(peer, environment), port, pid)


def peer_version(peer: PeerRouter, environment: Path = ENVIRONMENT) -> str:
    """Its name and version."""
    code = f"import importlib.metadata as m; print(m.version({peer.name!r}))"
    command = [str(environment / "bin/python"), "-c", code]
    return f"{peer.name} {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}"


def _healthy_servers(port: int) -> int | None:
    """None while it does not say."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readiness")
        count = json.loads(connection.getresponse().read())["healthy_workers"]
        return count if isinstance(count, int) else None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()
