"""Servers and a gateway in front of them, each a process that ends with the block it is needed in."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import yaml

from dualmap.instances.server.process import ServerProcess, StartError
from dualmap.instances.server.server_client import get_once
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.instance_capacity import InstanceCapacity

HOST = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_GRACE_S = 15.0
ASK_AGAIN_S = 0.5
HEALTH_TIMEOUT_S = 2.0


@asynccontextmanager
async def servers(
    command: Sequence[str], ports: Sequence[int], log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """The command once for each port, with it in the place of {port}, from when they are healthy. Logs are named after
    `log` and the port. Raises StartError."""
    async with AsyncExitStack() as stack:
        started = []
        for number, port in enumerate(ports):
            filled = tuple(part.replace("{host}", HOST).replace("{port}", str(port)) for part in command)
            filled = (*_on_core(number, len(ports)), *filled)
            server = ServerProcess(filled, log.with_name(f"{log.name}-{port}.log"), STOP_GRACE_S, env, (HOST, port))
            stack.push_async_callback(server.stop)
            await server.start(START_TIMEOUT_S)
            started.append(server)
        for server in started:
            await _healthy(server)
        yield


@asynccontextmanager
async def gateway(
    urls: Sequence[str], capacity: InstanceCapacity, scheduler: Mapping[str, object], log: Path
) -> AsyncIterator[int]:
    """Its port. scheduler: that section of its configuration. Raises StartError."""
    config = log.with_suffix(".yaml")
    instances = [{"url": url, "capacity": asdict(capacity)} for url in urls]
    ports = {"port": 0, "admin_port": 0}
    config.write_text(yaml.safe_dump({"instances": instances, "gateway": ports, "scheduler": dict(scheduler)}))
    command = (sys.executable, "-m", "dualmap.router.cli.standalone", str(config))
    server = ServerProcess(command, log.with_suffix(".log"), STOP_GRACE_S)
    try:
        await server.start(START_TIMEOUT_S)
        yield server.port
    finally:
        await server.stop()


def _on_core(number: int, count: int) -> tuple[str, ...]:
    """vLLM's engine process spins while its worker computes: without a core of its own, a server slows the others."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = 1 < count <= len(cores) and shutil.which("taskset")
    return ("taskset", "--cpu-list", str(cores[number])) if pinned else ()


async def _healthy(server: ServerProcess) -> None:
    """Raises StartError."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + START_TIMEOUT_S
    while await get_once(Endpoint(HOST, server.port), "/health", HEALTH_TIMEOUT_S) is None:
        if server.ended:
            raise server.start_error("ended")
        if loop.time() > give_up_at:
            raise StartError(f"no answer of http://{HOST}:{server.port}/health within {START_TIMEOUT_S:g} s")
        await asyncio.sleep(ASK_AGAIN_S)
