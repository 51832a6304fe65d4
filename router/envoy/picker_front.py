"""The endpoint picker's gRPC port: external processing for proxies, health for whoever watches the picker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import add_ExternalProcessorServicer_to_server
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dualmap.router.envoy.picker import Picker
from dualmap.router.http.limits import HttpLimits
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.driver import RequestDriver
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.fleet.member import Membership, MemberState

LIVENESS = "liveness"
SERVICES = ("", LIVENESS, "readiness", "envoy.service.ext_proc.v3.ExternalProcessor")
MESSAGE_OVERHEAD_BYTES = 1024 * 1024  # what a message holds beside a body
WATCH_INTERVAL_S = 1.0
LONG_S = 86_400.0  # the gateway says when to abort


class PickerFront:
    """tls: certificate chain and private key, PEM; None: plain text."""

    def __init__(
        self,
        driver: RequestDriver,
        admission: Admission,
        limits: HttpLimits,
        clock: Callable[[], float],
        alternatives: Callable[[Dispatch], Iterable[str]],
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        """alternatives: see Picker."""
        self.limits = limits
        self._admission = admission
        self.picker = Picker(driver, admission, clock, limits.max_body_bytes, alternatives)
        self._max_message_bytes = limits.max_body_bytes + MESSAGE_OVERHEAD_BYTES
        self._tls = tls
        self._server: Any = None
        self._port = 0
        self._closing: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int, reuse_port: bool, inherited: Sequence[socket.socket] = ()) -> None:
        options = [
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.max_receive_message_length", self._max_message_bytes),
        ]
        self._server = grpc.aio.server(options=options)
        add_ExternalProcessorServicer_to_server(self.picker, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self._admission), self._server)
        address = host_port(host, port)
        try:
            if self._tls is None:
                self._port = self._server.add_insecure_port(address)
            else:
                chain, key = self._tls
                credentials = grpc.ssl_server_credentials([(key, chain)])
                self._port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        await self._server.start()

    @property
    def port(self) -> int:
        return self._port

    @property
    def filenos(self) -> Sequence[int]:
        return ()  # gRPC opens its own

    def apply_membership(self, membership: Membership) -> None:
        ready = [member for member in membership.members if member.state is MemberState.READY]
        self.picker.instances = {host_port(m.endpoint.host, m.endpoint.port): m.instance_id for m in ready}
        self.picker.endpoints = {instance_id: endpoint for endpoint, instance_id in self.picker.instances.items()}

    def close(self) -> None:
        if self._server is not None:
            self._closing = asyncio.create_task(self._server.stop(LONG_S))

    async def abort(self) -> None:
        if self._server is not None:
            await self._server.stop(None)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The gRPC health protocol, with the services that the endpoint-picker protocol names."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return self._status(request.service)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        told = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield status
            await asyncio.sleep(WATCH_INTERVAL_S)

    def _status(self, service: str) -> Any:
        statuses = health_pb2.HealthCheckResponse
        if service not in SERVICES:
            return statuses(status=statuses.SERVICE_UNKNOWN)
        serves = service == LIVENESS or (self._admission.ready and not self._admission.stopping)
        return statuses(status=statuses.SERVING if serves else statuses.NOT_SERVING)
