"""Who reads the same bytes: vLLM's own HTTP server alone, and behind the gateway, nginx, HAProxy and Envoy."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead.measured_proxy import DEFAULT_GATEWAY, gateway, nginx, running

APP = Path(__file__).with_name("app.py")
_HAPROXY = """\
global
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{server}
"""
_ENVOY = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: s}}}}]}}
  clusters:
  - name: s
    type: STATIC
    load_assignment:
      cluster_name: s
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {server}}}}}}}
"""


@contextmanager
def behind(python: Path, folder: Path) -> Iterator[int]:
    """The server behind all, alone: its port. python: of an environment with vLLM, or with uvicorn and httptools."""
    (port,) = free_ports("127.0.0.1", 1)
    with running([str(python), str(APP), str(port)], [port], folder / "uvicorn.log"):
        yield port


def readers(server: int, folder: Path) -> dict[str, AbstractContextManager[int]]:
    """Proxies in front of the server on that port, as far as they are installed, each with its port."""
    found: dict[str, AbstractContextManager[int]] = {"gateway": _port(gateway, server, folder)}
    if shutil.which("nginx"):
        found["nginx"] = _port(lambda _, servers, place: nginx(servers, place), server, folder)
    if shutil.which("haproxy"):
        found["HAProxy"] = _started("haproxy", _HAPROXY, ["haproxy", "-db", "-f"], server, folder)
    envoy = Path(sys.executable).with_name("envoy")
    if envoy.exists():
        more = [str(envoy), "--log-level", "off", "--concurrency", "1", "--disable-hot-restart", "-c"]
        found["Envoy"] = _started("envoy", _ENVOY, more, server, folder)
    return found


@contextmanager
def _port(start: Callable[..., AbstractContextManager[object]], server: int, folder: Path) -> Iterator[int]:
    with start(DEFAULT_GATEWAY, [server], folder) as proxy:
        yield proxy.port  # type: ignore[attr-defined]


@contextmanager
def _started(name: str, config: str, command: list[str], server: int, folder: Path) -> Iterator[int]:
    (port,) = free_ports("127.0.0.1", 1)
    path = folder / f"{name}.yaml"
    path.write_text(config.format(port=port, server=server))
    with running([*command, str(path)], [port], folder / f"{name}.log"):
        yield port


def versions(python: Path) -> dict[str, str]:
    """Of those that are installed."""
    code = "import uvicorn, httptools; print(uvicorn.__version__, 'with httptools', httptools.__version__)"
    asked = {
        "uvicorn": [str(python), "-c", code],
        "nginx": ["nginx", "-v"],
        "HAProxy": ["haproxy", "-v"],
        "Envoy": [str(Path(sys.executable).with_name("envoy")), "--version"],
    }
    told = {}
    for name, command in asked.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = re.search(r"\d+\.\d+\.\d+.*?(?=$|[-/ ]\d{4}|/)", done.stdout + done.stderr, re.MULTILINE)
            told[name] = found[0] if found else "?"
    return told
