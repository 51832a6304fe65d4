"""The gateway's second port, for Prometheus and operators: /metrics, /health, the live page /ui, /admin/status,
/admin/decisions, /admin/live, and what scaling_endpoints.py names where instances are scaled."""

import socket
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from dualmap.router.gateway.held import HeldHere
from dualmap.router.gateway.noted import Noted
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.credentials import bearer_token
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.listen import Listeners
from dualmap.router.http.local_answers import json_response, ok_response
from dualmap.router.http.openai_errors import (
    HttpError,
    bad_request,
    error_response,
    unauthorized,
    unknown_path,
    wrong_method,
)
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.router.observe.ui_files import UI_PATHS, live_response, ui_response
from dualmap.router.scaling.endpoints import METHODS as SCALING_METHODS
from dualmap.router.scaling.endpoints import ScalingEndpoints

_PATHS = ("/metrics", "/health", "/admin/status", "/admin/decisions", "/admin/live", *UI_PATHS)
_METHODS = dict.fromkeys(_PATHS, "GET")


class Observed(Protocol):
    """What the endpoints show: the gateway."""

    metrics: GatewayMetrics

    noted: Noted

    held: HeldHere

    def status(self) -> dict[str, Any]: ...

    def live(self, pool_name: str | None, rings_known: str, events_known: str) -> dict[str, Any]: ...


class AdminService:
    """token: what requests for /admin/* must bear; None lets all in, which suits a port bound to 127.0.0.1. The page
    /ui is for all: what it shows comes from /admin/live. scaling: None where nothing scales."""

    def __init__(
        self,
        observed: Observed,
        limits: HttpLimits,
        clock: Callable[[], float],
        token: str | None = None,
        scaling: ScalingEndpoints | None = None,
    ) -> None:
        self.clients: set[ClientConnection] = set()
        self._observed = observed
        self._limits = limits
        self._clock = clock
        self._token = None if token is None else token.encode()
        self._scaling = scaling
        self._methods = _METHODS if scaling is None else {**_METHODS, **SCALING_METHODS}
        self._listeners = Listeners()

    async def start(self, host: str, port: int, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen. inherited: see Listeners. Raises OSError if the port is taken."""
        await self._listeners.open(
            lambda: ClientConnection(self, self._limits, self._clock), host, port, inherited=inherited
        )

    def sweep(self, now: float) -> None:
        """Apply the time-outs of connections; called periodically."""
        for client in list(self.clients):
            client.sweep(now)

    @property
    def port(self) -> int:
        return self._listeners.port

    @property
    def filenos(self) -> Sequence[int]:
        return self._listeners.filenos

    def close(self) -> None:
        """Take no new connections."""
        self._listeners.close()

    def stop(self) -> None:
        self.close()
        for client in list(self.clients):
            client.abort()

    def check_head(self, request: HttpRequest) -> HttpError | None:
        path = request.path
        if path not in self._methods:
            return unknown_path(path)
        if request.method != self._methods[path] and (request.method, self._methods[path]) != ("HEAD", "GET"):
            return wrong_method(request.method, path, self._methods[path])
        if path.startswith("/admin/") and self._token is not None:
            given = bearer_token(request.fields)
            if not given or not compare_digest(given, self._token):
                return unauthorized()
        return None

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        close = request.close
        if self._scaling is not None and request.path in SCALING_METHODS:
            self._scaling.begin(request, client)
            return
        match request.path:
            case "/metrics":
                response = ok_response(self._observed.metrics.scrape(), CONTENT_TYPE_LATEST.encode(), close=close)
            case "/admin/decisions":
                response = self._decisions(request)
            case "/admin/live":
                response = self._live(request)
            case path if path in UI_PATHS:
                response = ui_response(path, close=close)
            case "/admin/status":
                response = json_response(msgspec.json.encode(self._observed.status()), close=close)
            case _:
                response = json_response(b'{"status":"ok"}', close=close)
        client.answer(response, close=close)

    def _decisions(self, request: HttpRequest) -> bytes:
        """Where a request was sent, and why, or why it is held: ?request_id=ID."""
        found = parse_qs(request.target.partition(b"?")[2].decode("latin-1")).get("request_id")
        if not found:
            return error_response(bad_request("`request_id` is missing in the query."), close=request.close)
        decisions = self._observed.noted.decisions.find(found[0])
        held = self._observed.held.stories(found[0])
        return json_response(msgspec.json.encode({"decisions": decisions, "held": held}), close=request.close)

    def _live(self, request: HttpRequest) -> bytes:
        """What the page shows: ?pool=NAME&rings=VERSION&events=VERSION."""
        query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
        pool_name = query["pool"][0] if "pool" in query else None
        try:
            live = self._observed.live(pool_name, query.get("rings", [""])[0], query.get("events", [""])[0])
        except KeyError:
            return error_response(bad_request(f"There is no pool {pool_name!r}."), close=request.close)
        return live_response(msgspec.json.encode(live), close=request.close)

    def refused(self, error: HttpError) -> None:
        """Not a request for the fleet: not counted."""
