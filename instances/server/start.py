"""Starts an instance's server on ports that are free at that moment."""

import secrets
import socket
from dataclasses import replace

from dualmap.instances.server.process import ServerProcess
from dualmap.instances.spec import InstanceSpec, KvEventSource


async def start_server(spec: InstanceSpec, host: str) -> tuple[ServerProcess, KvEventSource | None]:
    """Returns once its process runs, with where it will publish its KV events. Raises StartError, OSError."""
    port, kv_port = free_ports(host, 2)
    places = {"{port}": str(port), "{kv_port}": str(kv_port), "{host}": host, "{unique}": secrets.token_hex(8)}
    command = tuple(_filled(argument, places) for argument in spec.command)
    env = {name: _filled(value, places) for name, value in spec.env.items()}
    address = (host, port) if "{port}" in spec.command else None
    server = ServerProcess(command, spec.log_path, spec.stop_grace_s, env, address)
    await server.start(spec.start_timeout_s)
    events = spec.kv_events
    if events is not None:
        replay_endpoint = events.replay_endpoint and _filled(events.replay_endpoint, places)
        events = replace(events, endpoint=_filled(events.endpoint, places), replay_endpoint=replay_endpoint)
    return server, events


def free_ports(host: str, count: int) -> list[int]:
    """Free at this moment: a server that finds one taken is started again with others. Raises OSError."""
    probes = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _filled(text: str, places: dict[str, str]) -> str:
    """Not str.format: engine arguments may hold JSON."""
    for name, value in places.items():
        text = text.replace(name, value)
    return text
