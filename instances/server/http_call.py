"""HTTP for the background: health probes, metrics, model lists; never requests of users."""

import asyncio
import http.client
import json
import socket
from typing import Any, NamedTuple

from dualmap.router.http.endpoint_connection import tls_context
from dualmap.router.http.instance_key import authorization_line
from dualmap.scheduler.fleet.endpoint import Endpoint

NO_ANSWER = 0


class Answer(NamedTuple):
    """status: NO_ANSWER where there was none, and `error` says why."""

    status: int
    body: bytes = b""
    error: Exception | None = None


async def http_get(endpoint: Endpoint, path: str, timeout_s: float) -> bytes | None:
    """The body of a 200 answer; None for any other answer and for none."""
    answer = await http_ask(endpoint, path, timeout_s)
    return answer.body if answer.status == 200 else None


async def http_ask(endpoint: Endpoint, path: str, timeout_s: float) -> Answer:
    return await asyncio.to_thread(_call, endpoint, "GET", path, None, timeout_s)


async def http_post(endpoint: Endpoint, path: str, value: Any, timeout_s: float) -> tuple[int, bytes]:
    """Send the value as JSON. Status and body of the answer; NO_ANSWER and nothing where there was none."""
    answer = await asyncio.to_thread(_call, endpoint, "POST", path, json.dumps(value).encode(), timeout_s)
    return answer.status, answer.body


def _call(endpoint: Endpoint, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
    headers = {"host": endpoint.authority, "user-agent": "Python-urllib", "connection": "close"}
    if body is not None:
        headers["content-type"] = "application/json"
    if line := authorization_line(endpoint):
        headers["authorization"] = line.decode().partition(":")[2].strip()
    connection = None
    try:
        connection = _Connection(endpoint, timeout_s)
        connection.request(method, endpoint.prefix + path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(NO_ANSWER, error=error)
    finally:
        if connection is not None:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        super().__init__(endpoint.host or "localhost", endpoint.port, timeout=timeout_s)
        self._endpoint = endpoint

    def connect(self) -> None:
        endpoint = self._endpoint
        if endpoint.socket:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(endpoint.socket)
            return
        super().connect()
        if endpoint.tls:
            name = endpoint.server_name or endpoint.host
            self.sock = tls_context(endpoint.ca_file).wrap_socket(self.sock, server_hostname=name)
