"""Simulated servers that run on their own, for a deployment that starts none: whoever supervises them, here this
process, starts one again that has died."""

import argparse
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dualmap.loadtest.experiments.deployed import MARK, run_of_free_ports
from dualmap.scheduler.instance_capacity import InstanceCapacity

MODULE = "dualmap.instances.simulated.cli"
HOST = "127.0.0.1"
LOOK_S = 0.2
AGAIN_S = 1.0  # until one that has died is started again
END_S = 10.0
RUNTIMES = ("ray", "local")


class UrlServers:
    """mark: in the environment of each, so that a deployment of the same mark counts them among its processes."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # by port
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="servers", daemon=True)
        self._thread.start()

    @property
    def urls(self) -> list[str]:
        return [f"http://{HOST}:{port}" for port in sorted(self._processes)]

    def add(self, count: int) -> None:
        """Raises OSError."""
        with self._turn:
            first = run_of_free_ports(count)
            for port in range(first, first + count):
                self._processes[port] = self._start(port)

    def remove(self, url: str) -> None:
        """It is gone when this returns."""
        with self._turn:
            process = self._processes.pop(int(url.rpartition(":")[2]))
        _end(process)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            _end(process)

    def _keep(self) -> None:
        while not self._stop.wait(LOOK_S):
            with self._turn:
                dead = [port for port, process in self._processes.items() if process.poll() is not None]
            if not dead or self._stop.wait(AGAIN_S):
                continue
            with self._turn:
                for port in dead:
                    if port in self._processes:
                        self._processes[port] = self._start(port)

    def _start(self, port: int) -> "subprocess.Popen[bytes]":
        capacity = InstanceCapacity()
        command = (
            *(sys.executable, "-P", "-m", MODULE, "--host", HOST, "--port", str(port)),
            *("--prefill-tokens-per-s", str(capacity.prefill_tokens_per_s), "--kv-tokens", str(capacity.kv_tokens)),
            *("--max-num-seqs", str(capacity.max_running)),
        )
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, MARK: self.mark})


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def add_runtime_argument(parser: argparse.ArgumentParser) -> None:
    told = "ray: the deployment starts its servers; local: they run on their own, and Ray is not started (ray)"
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0], help=told)


@contextmanager
def instances(runtime: str, count: int) -> Iterator[tuple[dict[str, Any], UrlServers | None]]:
    """What a deployment's configuration says of so many simulated instances: it starts them on Ray, or they run on
    their own."""
    if runtime == "ray":
        yield {"simulate": {"count": count}}, None
        return
    servers = UrlServers()
    try:
        servers.add(count)
        yield {"instances": servers.urls, "runtime": runtime}, servers
    finally:
        servers.close()
