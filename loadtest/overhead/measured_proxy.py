"""The proxies that the overhead benchmark compares: how each is started and stopped, and what CPU it has used."""

import http.client
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from dualmap.instances.server.start import free_ports

DEFAULT_GATEWAY = "{python} -m dualmap.router.cli.standalone --port {port} --admin-port {admin_port} {instances}"
START_S = 60.0
_STOP_S = 10.0
_ASK_AGAIN_S = 0.1

_NGINX_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 32m;
  client_body_buffer_size 256k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream backends {{
    {servers}
    keepalive 128;
    keepalive_requests 1000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class ProxyError(RuntimeError):
    """A proxy or backend that does not start; the message ends with what it wrote."""


class MeasuredProxy:
    """A proxy that runs: where it listens, and the CPU clocks of its processes."""

    def __init__(self, name: str, port: int, pid: int) -> None:
        self.name = name
        self.port = port
        self.pid = pid
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """User and system time of the process and its living descendants, from their CPU clocks (nanoseconds)."""
        pids = [self.pid, *(child.pid for child in self._process.children(recursive=True))]
        # the clock id that clock_getcpuclockid(3) makes of a pid
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@contextmanager
def backends(ports: Sequence[int], folder: Path) -> Iterator[None]:
    """The cheap model servers, in a process of their own."""
    command = [sys.executable, "-m", "dualmap.loadtest.overhead.backend", *map(str, ports)]
    with running(command, ports, folder / "backends.log"):
        yield


@contextmanager
def gateway(template: str, backend_ports: Sequence[int], folder: Path) -> Iterator[MeasuredProxy]:
    """The gateway. template: a command as `gateway_command` takes it."""
    port, admin_port = free_ports("127.0.0.1", 2)
    command = gateway_command(template, port, admin_port, backend_ports)
    with running(command, [port], folder / "gateway.log") as pid:
        yield MeasuredProxy("dualmap gateway", port, pid)


def gateway_command(
    template: str, port: int, admin_port: int, backend_ports: Sequence[int], roles: Sequence[str] = ()
) -> list[str]:
    """template: a command with {python}, {port}, {admin_port} and {instances} (--instance URL each). roles: by backend,
    where they have some."""
    flags = roles or ("instance",) * len(backend_ports)
    places = zip(flags, backend_ports, strict=True)
    instances = " ".join(f"--{flag} http://127.0.0.1:{backend}" for flag, backend in places)
    python = shlex.quote(sys.executable)
    return shlex.split(template.format(python=python, port=port, admin_port=admin_port, instances=instances))


def why_no_nginx() -> str | None:
    """None where nginx can be run."""
    return None if shutil.which("nginx") else "nginx is not installed (Debian: apt-get install nginx-light)"


@contextmanager
def nginx(backend_ports: Sequence[int], folder: Path) -> Iterator[MeasuredProxy]:
    """nginx as a plain reverse proxy with one worker, with its files in `folder`."""
    (port,) = free_ports("127.0.0.1", 1)
    servers = "\n    ".join(f"server 127.0.0.1:{backend};" for backend in backend_ports)
    user = "user root;" if os.geteuid() == 0 else ""
    folder = folder.absolute()  # nginx takes its paths from `-p`
    config = folder / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(user=user, folder=folder, port=port, servers=servers))
    binary = shutil.which("nginx") or "nginx"
    command = [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with running(command, [port], folder / "nginx.log") as pid:
        version = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr
        yield MeasuredProxy(version.strip().partition(": ")[2].replace("/", " ") or "nginx", port, pid)


@contextmanager
def running(
    command: Sequence[str],
    ports: Sequence[int],
    log: Path,
    start_s: float = START_S,
    environment: Mapping[str, str] | None = None,
    path: str = "/v1/models",
) -> Iterator[int]:
    """A process, from when its ports answer GET `path` with 200; gives its pid. Raises ProxyError."""
    with (
        open(log, "wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            give_up_at = time.monotonic() + start_s
            while not all(_answers(port, path) for port in ports):
                if process.poll() is not None or time.monotonic() > give_up_at:
                    said = log.read_text(errors="replace")[-2000:]
                    raise ProxyError(f"{shlex.join(command)} does not answer on {list(ports)}\n{said}")
                time.sleep(_ASK_AGAIN_S)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
