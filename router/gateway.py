"""The live driver of the core: sockets and clock become events, commands become requests to instances and answers.

Everything between an event and its commands is synchronous; nothing on a request's path is awaited.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from router.admin import AdminService, listening_port
from router.client_connection import ClientConnection
from router.exchange import Exchange
from router.http_request import HttpRequest
from router.intake import take_in
from router.limits import HttpLimits
from router.local_answers import json_response
from router.membership import Membership, MemberState
from router.membership_events import SERVING, membership_events
from router.metrics import REJECTIONS, GatewayMetrics, Outcome
from router.model_list import ModelList
from router.openai_errors import (
    HttpError,
    RequestRefusedError,
    error_response,
    rejected,
    unavailable,
    unknown_model,
)
from router.routes import Route, find_route
from router.token_ratio import TokenRatio
from router.upstream_pool import UpstreamPool
from scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from scheduler.core import Scheduler
from scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    MovesProposed,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    Tick,
)
from scheduler.snapshot import Move, Snapshot

TICK_S = 0.1  # assumed first tokens are late by half of it on average; a tick of an idle core costs a microsecond
LISTEN_BACKLOG = 1024  # a burst of new connections while a step of the loop runs
FIRST_ERROR_STATUS = 400
FIRST_SERVER_ERROR_STATUS = 500


class Gateway:
    """One process's gateway. All methods are for the thread of the event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        limits: HttpLimits,
        metrics: GatewayMetrics,
        *,
        block_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        gateway_id: str = "gateway",
        admin_token: str | None = None,
    ) -> None:
        """block_tokens: as in the scheduler's config. admin_token: what /admin/* asks for; None: nothing."""
        self.gateway_id = gateway_id
        self.scheduler = scheduler
        self.metrics = metrics
        self.membership = Membership()
        self.clients: set[ClientConnection] = set()
        self.exchanges: dict[str, Exchange] = {}
        self._limits = limits
        self._block_tokens = block_tokens
        self._clock = clock
        self._started_at = clock()
        self._ratio = TokenRatio()
        self._models = ModelList(self.membership)
        self._pools: dict[str, UpstreamPool] = {}
        self._exchange_prefix = f"{gateway_id}-{time.time_ns():x}-"
        self._exchange_count = 0
        self._stopping = False
        self._drained = asyncio.Event()
        self._next_sweep = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._admin = AdminService(self, limits, clock, admin_token)
        self._apply: dict[type[Command], Callable[[Any], None]] = {
            Dispatch: self._dispatch,
            Reject: self._reject,
            Abort: self._abort,
            FailStream: self._fail_stream,
        }
        metrics.bind(scheduler, lambda: self.membership, self._gauges)

    # Lifecycle.

    async def start(
        self,
        host: str,
        port: int,
        reuse_port: bool = False,
        admin_host: str = "127.0.0.1",
        admin_port: int = 0,
    ) -> None:
        """Listen. Port 0 takes a free one; `port` and `admin_port` tell which. Raises OSError if one is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self, self._limits, self._clock),
            host,
            port,
            reuse_port=reuse_port,
            backlog=LISTEN_BACKLOG,
        )
        try:
            await self._admin.start(admin_host, admin_port)
        except OSError:
            self._server.close()
            raise
        self._tick()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Accept no more, let running exchanges end for up to `drain_s` seconds, then abort the rest."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.close_if_idle()
        for exchange in self.exchanges.values():
            exchange.request.close = True
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._drained.wait()
        for client in list(self.clients):
            client.abort()
        for pool in self._pools.values():
            pool.close()
        self._admin.stop()
        if self._ticking is not None:
            self._ticking.cancel()

    @property
    def port(self) -> int:
        """The port that clients use."""
        return listening_port(self._server)

    @property
    def admin_port(self) -> int:
        return self._admin.port

    # What runs in the background tells and asks.

    def apply_membership(self, membership: Membership) -> None:
        """Take over a membership, unless it is older than the one in use or the same."""
        if membership.epoch <= self.membership.epoch:
            return
        old, self.membership = self.membership, membership
        self._models = ModelList(membership)
        for member in membership.members:
            if member.state in SERVING:
                self._set_address(member.instance_id, member.host, member.port)
        for event in membership_events(old, membership):
            self.handle(event)
        serving = {m.instance_id for m in membership.members if m.state in SERVING}
        for instance_id in self._pools.keys() - serving:
            self._pools.pop(instance_id).close()

    def propose(self, moves: tuple[Move, ...], version: int) -> None:
        """A plan made on the snapshot of that version."""
        self.handle(MovesProposed(moves, version))

    def snapshot(self) -> Snapshot | None:
        """What planning needs; None while there is nothing to plan."""
        return self.scheduler.snapshot(self._clock())

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as plain values."""
        views = self.scheduler.instances
        members = []
        for member in self.membership.members:
            row: dict[str, Any] = {
                "instance_id": member.instance_id,
                "incarnation": member.incarnation,
                "address": f"{member.host}:{member.port}",
                "state": member.state.value,
                "pid": member.pid,
                "models": [str(card.get("id")) for card in member.model_cards],
            }
            if view := views.get(member.instance_id):
                row |= {
                    "waiting": view.waiting_count,
                    "running": view.running_count,
                    "waiting_tokens": view.waiting_tokens,
                    "prefill_tokens": view.booked_prefill_tokens,
                    "kv_tokens": view.booked_kv_tokens,
                    "seconds_per_token": view.seconds_per_token,
                }
            members.append(row)
        return {
            "gateway_id": self.gateway_id,
            "pid": os.getpid(),
            "policy": self.scheduler.config.policy,
            "epoch": self.membership.epoch,
            "uptime_s": self._clock() - self._started_at,
            "in_flight": len(self.exchanges),
            "client_connections": len(self.clients),
            "members": members,
        }

    def handle(self, event: Event) -> None:
        """Give the core an event, and carry out what it orders."""
        for command in self.scheduler.handle(event, self._clock()):
            self._apply[type(command)](command)

    # Requests, as client connections bring them (HttpService).

    def check_head(self, request: HttpRequest) -> HttpError | None:
        route = find_route(request)
        return None if isinstance(route, Route) else route

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        if self._stopping:
            request.close = True
            self._answer_error(client, request, unavailable("The gateway is shutting down."))
            return
        route = find_route(request)
        if route in (Route.CHAT, Route.COMPLETION, Route.PASSED_THROUGH):
            self._begin_exchange(request, client, route)
        elif route is Route.MODELS:
            client.answer(json_response(self._models.body, close=request.close), close=request.close)
        elif route is Route.READY and not self._is_ready():
            self._answer_error(client, request, unavailable("No instance is ready."))
        else:
            client.answer(json_response(b'{"status":"ok"}', close=request.close), close=request.close)

    def refused(self, error: HttpError) -> None:
        self.metrics.outcomes[Outcome.CLIENT_ERROR] += 1

    def _begin_exchange(self, request: HttpRequest, client: ClientConnection, route: Route) -> None:
        self._exchange_count += 1
        exchange_id = self._exchange_prefix + str(self._exchange_count)
        exchange = Exchange(self, exchange_id, client, request, request.body, self._clock())
        try:
            core_request = take_in(exchange, route, self._block_tokens, self._ratio)
            if self._models.ids and exchange.model and exchange.model not in self._models.ids:
                raise RequestRefusedError(unknown_model(exchange.model))
        except RequestRefusedError as refusal:
            self.refused(refusal.error)
            exchange.answer_error(refusal.error)
            return
        client.answering = exchange
        self.exchanges[exchange_id] = exchange
        self.handle(RequestArrived(core_request))

    def _answer_error(self, client: ClientConnection, request: HttpRequest, error: HttpError) -> None:
        response = error_response(error, request_id=request.client_request_id, close=request.close)
        client.answer(response, close=request.close)

    def _is_ready(self) -> bool:
        return any(member.state is MemberState.READY for member in self.membership.members)

    # What becomes of exchanges (ExchangeOwner).

    def first_byte(self, exchange: Exchange) -> None:
        now = exchange.first_byte_at = self._clock()
        dispatch = exchange.dispatch
        if not exchange.event_stream or dispatch is None:  # a plain answer comes whole: this is not its first token
            return
        metrics = self.metrics
        ttft_s = now - exchange.arrived_at
        metrics.time_to_first_token_s.observe(ttft_s)
        metrics.estimated_ttft_s.observe(dispatch.estimated_ttft_s)
        metrics.estimate_error_s.observe(abs(dispatch.estimated_ttft_s - ttft_s))
        self.handle(FirstToken(exchange.id, dispatch.attempt))

    def finished(self, exchange: Exchange, status: int) -> None:
        del self.exchanges[exchange.id]
        metrics = self.metrics
        metrics.relayed_pieces += exchange.pieces
        output_tokens = 0
        prompt_tokens = cached_tokens = None
        if status < FIRST_ERROR_STATUS:
            metrics.outcomes[Outcome.OK] += 1
            metrics.end_to_end_s.observe(self._clock() - exchange.arrived_at)
            prompt_tokens, output_tokens_seen, cached_tokens = exchange.usage()
            output_tokens = exchange.pieces if output_tokens_seen is None else output_tokens_seen
            metrics.output_tokens += output_tokens
            if prompt_tokens is not None:
                metrics.prompt_tokens += prompt_tokens
                metrics.cached_prompt_tokens += cached_tokens or 0
                if not exchange.prompt_is_token_ids:
                    self._ratio.observe(exchange.model, exchange.prompt_bytes, prompt_tokens)
        elif status < FIRST_SERVER_ERROR_STATUS:
            metrics.outcomes[Outcome.CLIENT_ERROR] += 1
        else:
            metrics.outcomes[Outcome.INSTANCE_ERROR] += 1
        if exchange.dispatch is not None:
            attempt = exchange.dispatch.attempt
            self.handle(RequestFinished(exchange.id, attempt, output_tokens, cached_tokens, prompt_tokens))

    def attempt_failed(self, exchange: Exchange, cause: FailureCause) -> None:
        if exchange.dispatch is not None:
            self.handle(RequestFailed(exchange.id, exchange.dispatch.attempt, exchange.pieces, cause))

    def cancelled(self, exchange: Exchange) -> None:
        if self.exchanges.pop(exchange.id, None) is not None:
            self.metrics.outcomes[Outcome.CANCELLED] += 1
            self.handle(RequestCancelled(exchange.id))

    # What the core orders.

    def _dispatch(self, command: Dispatch) -> None:
        exchange = self.exchanges[command.request_id]
        metrics = self.metrics
        metrics.choices[command.reason] += 1
        metrics.queue_s.observe(command.queued_s)
        metrics.believed_prompt_tokens += exchange.prompt_tokens
        metrics.believed_cached_tokens += command.cached_tokens
        exchange.start_attempt(command, self._pools[command.instance_id], self._clock())

    def _reject(self, command: Reject) -> None:
        exchange = self.exchanges.pop(command.request_id)
        self.metrics.outcomes[REJECTIONS[command.reason]] += 1
        exchange.answer_error(rejected(command))

    def _abort(self, command: Abort) -> None:
        self.exchanges[command.request_id].drop_upstream()

    def _fail_stream(self, command: FailStream) -> None:
        exchange = self.exchanges.pop(command.request_id)
        self.metrics.outcomes[Outcome.FAILED_STREAM if exchange.answer_begun else Outcome.FAILED] += 1
        self.metrics.relayed_pieces += exchange.pieces
        exchange.fail(command.cause)

    # Background.

    def _set_address(self, instance_id: str, host: str, port: int) -> None:
        pool = self._pools.get(instance_id)
        if pool is not None and pool.address == (host, port):
            return
        loop = asyncio.get_running_loop()
        self._pools[instance_id] = UpstreamPool(loop, instance_id, host, port, self._limits, self._clock)
        if pool is not None:
            pool.close()

    def _tick(self) -> None:
        interval_s = min(TICK_S, self._limits.sweep_interval_s)
        self._ticking = asyncio.get_running_loop().call_later(interval_s, self._tick)
        self.handle(Tick())
        if self._stopping and not self.exchanges and not any(client.has_unsent for client in self.clients):
            self._drained.set()
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + self._limits.sweep_interval_s
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Apply every time-out."""
        limits = self._limits
        for exchange in list(self.exchanges.values()):
            if exchange.is_stalled(now, limits.first_byte_timeout_s, limits.stall_timeout_s):
                exchange.drop_upstream()
                self.attempt_failed(exchange, FailureCause.STALLED)
        for client in list(self.clients):
            client.sweep(now)
        for client in list(self._admin.clients):
            client.sweep(now)
        for pool in self._pools.values():
            pool.sweep(now)

    def _gauges(self) -> dict[str, float]:
        return {"requests_in_flight": len(self.exchanges), "client_connections": len(self.clients)}
