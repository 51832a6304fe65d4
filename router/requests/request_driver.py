"""Requests and the core: what clients and instances do becomes events, commands become requests and answers.

Everything between an event and its commands is synchronous; nothing on a request's path is awaited.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from typing import Any

from dualmap.router.access.access import Access
from dualmap.router.apis.model_list import ModelList
from dualmap.router.apis.peek import peek_model
from dualmap.router.apis.routes import Route, find_route
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.local_answers import json_response
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    error_response,
    failed,
    rejected,
    unavailable,
    unknown_model,
)
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.journal.writer import Core
from dualmap.router.observe.metrics import REJECTIONS, GatewayMetrics, Outcome
from dualmap.router.requests.driven import Driven
from dualmap.router.requests.exchange import Exchange
from dualmap.router.requests.intake import take_in
from dualmap.router.requests.request_watcher import RequestWatcher
from dualmap.router.requests.token_arrival import TokenArrival
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.router.tokens.token_ratio import TokenRatio
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, TellOthers
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
)
from dualmap.scheduler.fleet.member import Membership
from dualmap.scheduler.request import Request

NOT_KNOWN_YET = "No instance is known to serve the model yet."
FIRST_ERROR_STATUS = 400
FIRST_SERVER_ERROR_STATUS = 500


class RequestDriver:
    """clients: open connections. exchanges: requests that the core knows, by id. models, ready: as of the membership in
    use. stopping: requests that still come are turned away. dispatched: is told of each request that goes out.
    watchers: of each that comes and ends.
    first_token_came: of each stream that begins, and how many seconds after its request.
    tell_others: a core wants the other gateways to know of its books at once."""

    def __init__(
        self,
        cores: Mapping[str, Core],
        limits: HttpLimits,
        metrics: GatewayMetrics,
        block_tokens: int,
        clock: Callable[[], float],
        gateway_id: str,
        ask_for_usage: bool = True,
        tokens: TokenBlocks | None = None,
        access: Access | None = None,
        isolate_tenants: bool = False,
    ) -> None:
        """cores: by pool, the first one first. ask_for_usage: streams whose client says nothing of `stream_options`
        report it to the gateway alone. tokens: names the first pool's prompts by their tokens; None: they are known by
        their raw bytes. access: None: whoever can reach us may use the fleet. isolate_tenants: see take_in."""
        self.clients: set[ClientConnection] = set()
        self.exchanges: dict[str, Driven] = {}
        self.models = ModelList(Membership(), next(iter(cores)))
        self.ready = False
        self.stopping = False
        self.dispatched: Callable[[Dispatch], None] = lambda dispatch: None
        self.first_token_came: Callable[[Dispatch, float], None] = lambda dispatch, ttft_s: None
        self.tell_others: Callable[[], None] = lambda: None
        self._cores = cores
        self._first_core = next(iter(cores.values()))
        self._limits = limits
        self._metrics = metrics
        self._block_tokens = block_tokens
        self._clock = clock
        self._ask_for_usage = ask_for_usage
        self.access = access
        self._isolate_tenants = isolate_tenants
        self.by_tokens = None if tokens is None else TokenArrival(tokens, block_tokens, self._arrive)
        self._ratio = TokenRatio()
        self._pools: dict[str, UpstreamPool] = {}
        self.watchers: tuple[RequestWatcher, ...] = ()
        self._exchange_prefix = f"{gateway_id}-{time.time_ns():x}-"
        self._exchange_count = 0
        self._apply: dict[type[Command], Callable[[Any], None]] = {
            Dispatch: self._dispatch,
            Reject: self._reject,
            Abort: self._abort,
            FailStream: self._fail_stream,
            TellOthers: lambda command: self.tell_others(),
        }

    def handle(self, event: Event, core: Core) -> None:
        """Give the core of a pool an event, and carry out what it orders."""
        for command in core.handle(event, self._clock()):
            self._apply[type(command)](command)

    # Requests, as client connections bring them (HttpService).

    def check_head(self, request: HttpRequest) -> HttpError | None:
        route = find_route(request)
        if not isinstance(route, Route):
            return route
        if self.access is None or route in (Route.HEALTH, Route.READY):
            return None
        return self.access.check(request)

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        if self.stopping:
            request.close = True
            self._answer_error(client, request, unavailable("The gateway is shutting down."))
            return
        route = find_route(request)
        if route is Route.READY and not self.ready:
            self._answer_error(client, request, unavailable("No instance is ready."))
        elif route in (Route.HEALTH, Route.READY):
            client.answer(json_response(b'{"status":"ok"}', close=request.close), close=request.close)
        else:
            self._begin_granted(request, client, route)

    def refused(self, error: HttpError) -> None:
        self._metrics.outcomes[Outcome.CLIENT_ERROR] += 1

    def _begin_granted(self, request: HttpRequest, client: ClientConnection, route: Route | HttpError) -> None:
        try:
            grant = None if self.access is None else self.access.grant(request)
        except RequestRefusedError as refusal:
            self.refused(refusal.error)
            self._answer_error(client, request, refusal.error)
            return
        if route is Route.MODELS:
            models = self.models.body if grant is None else self.models.body_for(grant.key.models)
            client.answer(json_response(models, close=request.close), close=request.close)
        elif isinstance(route, Route):
            exchange = Exchange(self, self.next_id(), client, request, request.body, self._clock(), grant)
            client.answering = exchange
            self.take(exchange, route)

    def next_id(self) -> str:
        """For an exchange."""
        self._exchange_count += 1
        return self._exchange_prefix + str(self._exchange_count)

    def take(self, exchange: Driven, route: Route, only: tuple[str, ...] = ()) -> None:
        """Take a request to the core, or answer it with an error. only: instances that it may run on; empty: any."""
        for watcher in self.watchers:
            watcher.begun(exchange, route)
        try:
            core_request = take_in(
                exchange, route, self._block_tokens, self._ratio, self._ask_for_usage, self._isolate_tenants
            )
            model = exchange.model
            grant = exchange.grant
            if route is Route.PASSED_THROUGH and (len(self._cores) > 1 or grant is not None):
                model = peek_model(exchange.body)
            if grant is not None:
                grant.check_model(model)
            pool = self.models.pool_of(model)
            if pool is None:
                unknown = unknown_model(model)
                raise RequestRefusedError(unavailable(NOT_KNOWN_YET) if self.models.silent else unknown)
            adapter = self.models.lora_name(model)
            if adapter or only:
                core_request = replace(core_request, adapter=adapter, only=only)
            if grant is not None:
                exchange.answer_lines = grant.admit(core_request.prompt_tokens, self._clock())
        except RequestRefusedError as refusal:
            self.refused(refusal.error)
            exchange.answer_error(refusal.error)
            self._ended(exchange, Outcome.CLIENT_ERROR, refusal.error.status)
            return
        exchange.asked = core_request
        self.exchanges[exchange.id] = exchange
        core = exchange.core = self._cores[pool]
        if self.by_tokens is None or route is Route.PASSED_THROUGH or core is not self._first_core:
            self.handle(RequestArrived(core_request), core)
        else:
            self.by_tokens.begin(exchange, core_request, route is Route.CHAT, core_request.adapter)

    def _arrive(self, exchange: Driven, core_request: Request) -> None:
        if exchange.id in self.exchanges:  # else its client has left
            self.handle(RequestArrived(core_request), exchange.core)

    def _answer_error(self, client: ClientConnection, request: HttpRequest, error: HttpError) -> None:
        response = error_response(error, request_id=request.client_request_id, close=request.close)
        client.answer(response, close=request.close)

    # What becomes of exchanges (DrivenOwner).

    def first_byte(self, exchange: Driven) -> None:
        now = exchange.first_byte_at = self._clock()
        dispatch = exchange.dispatch
        if not exchange.event_stream or dispatch is None:  # a plain answer comes whole: this is not its first token
            return
        metrics = self._metrics
        ttft_s = now - exchange.arrived_at
        metrics.time_to_first_token_s.observe(ttft_s)
        metrics.estimated_ttft_s.observe(dispatch.estimated_ttft_s)
        metrics.estimate_error_s.observe(abs(dispatch.estimated_ttft_s - ttft_s))
        self.first_token_came(dispatch, ttft_s)
        self.handle(FirstToken(exchange.id, dispatch.attempt), exchange.core)

    def finished(self, exchange: Driven, status: int) -> None:
        del self.exchanges[exchange.id]
        metrics = self._metrics
        metrics.relayed_pieces += exchange.pieces
        outcome = Outcome.OK
        output_tokens = 0
        prompt_tokens = cached_tokens = None
        if status < FIRST_ERROR_STATUS:
            now = self._clock()
            metrics.end_to_end_s.observe(now - exchange.arrived_at)
            prompt_tokens, output_tokens_seen, cached_tokens = exchange.usage()
            output_tokens = exchange.pieces if output_tokens_seen is None else output_tokens_seen
            metrics.output_tokens += output_tokens
            if exchange.event_stream and output_tokens > 1:
                metrics.time_per_output_token_s.observe((now - exchange.first_byte_at) / (output_tokens - 1))
            if prompt_tokens is not None:
                metrics.prompt_tokens += prompt_tokens
                metrics.cached_prompt_tokens += cached_tokens or 0
                if not exchange.prompt_is_token_ids:
                    self._ratio.observe(exchange.model, exchange.prompt_bytes, prompt_tokens)
        else:
            outcome = Outcome.CLIENT_ERROR if status < FIRST_SERVER_ERROR_STATUS else Outcome.INSTANCE_ERROR
        metrics.outcomes[outcome] += 1
        self._ended(exchange, outcome, status)
        if (grant := exchange.grant) is not None:
            grant.limit.tokens.take(output_tokens, self._clock())
        if exchange.dispatch is not None:
            attempt = exchange.dispatch.attempt
            done = RequestFinished(exchange.id, attempt, output_tokens, cached_tokens, prompt_tokens)
            self.handle(done, exchange.core)

    def attempt_failed(self, exchange: Driven, cause: FailureCause) -> None:
        self._metrics.failures[cause] += 1
        if exchange.dispatch is not None:
            event = RequestFailed(exchange.id, exchange.dispatch.attempt, exchange.sent_pieces, cause)
            self.handle(event, exchange.core)

    def cancelled(self, exchange: Driven) -> None:
        if self.exchanges.pop(exchange.id, None) is not None:
            self._metrics.outcomes[Outcome.CANCELLED] += 1
            self._ended(exchange, Outcome.CANCELLED, 0)
            self.handle(RequestCancelled(exchange.id), exchange.core)

    # What the core orders.

    def _dispatch(self, command: Dispatch) -> None:
        exchange = self.exchanges[command.request_id]
        metrics = self._metrics
        metrics.choices[command.reason] += 1
        metrics.queue_s.observe(command.queued_s)
        metrics.believed_prompt_tokens += exchange.prompt_tokens
        metrics.believed_cached_tokens += command.cached_tokens
        self.dispatched(command)
        exchange.start_attempt(command, self._pools[command.instance_id], self._clock())

    def _reject(self, command: Reject) -> None:
        exchange = self.exchanges.pop(command.request_id)
        error = rejected(command)
        self._metrics.outcomes[REJECTIONS[command.reason]] += 1
        exchange.answer_error(error)
        self._ended(exchange, REJECTIONS[command.reason], error.status)

    def _abort(self, command: Abort) -> None:
        self.exchanges[command.request_id].drop_upstream()

    def _fail_stream(self, command: FailStream) -> None:
        exchange = self.exchanges.pop(command.request_id)
        outcome = Outcome.FAILED_STREAM if exchange.answer_begun else Outcome.FAILED
        self._metrics.outcomes[outcome] += 1
        self._metrics.relayed_pieces += exchange.sent_pieces
        exchange.fail(command.cause)
        self._ended(exchange, outcome, failed(command.cause).status)

    def _ended(self, exchange: Driven, outcome: Outcome, status: int) -> None:
        for watcher in self.watchers:
            watcher.ended(exchange, outcome, status)

    # What the gateway calls.

    def limit(self, limits: HttpLimits) -> None:
        """They hold from now on."""
        self._limits = limits
        for pool in self._pools.values():
            pool.limits = limits

    def set_addresses(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Where instances are reached, by id; before the core learns of them."""
        loop = asyncio.get_running_loop()
        for instance_id, address in addresses.items():
            pool = self._pools.get(instance_id)
            if pool is None or pool.address != address:
                self._pools[instance_id] = UpstreamPool(loop, instance_id, *address, self._limits, self._clock)
                if pool is not None:
                    pool.close()

    def forget_addresses(self, kept: Set[str]) -> None:
        """Forget the instances that are not among those kept; the core has lost them."""
        for instance_id in self._pools.keys() - kept:
            self._pools.pop(instance_id).close()

    def sweep(self, now: float) -> None:
        """Apply the time-outs of requests and connections; called periodically."""
        limits = self._limits
        for exchange in list(self.exchanges.values()):
            if exchange.is_stalled(now, limits.first_byte_timeout_s, limits.stall_timeout_s):
                exchange.drop_upstream()
                self.attempt_failed(exchange, FailureCause.STALLED)
        for client in list(self.clients):
            client.sweep(now)
        for pool in self._pools.values():
            pool.sweep(now)
        if self.access is not None:
            self.access.sweep(now)

    def stop_taking(self) -> None:
        """Turn away requests that still come, and close each connection once it has its answers."""
        self.stopping = True
        for client in list(self.clients):
            client.close_if_idle()
        for exchange in self.exchanges.values():
            exchange.request.close = True

    @property
    def is_drained(self) -> bool:
        """Every request is answered, and every answer has left this process."""
        return not self.exchanges and not any(client.has_unsent for client in self.clients)

    def abort(self) -> None:
        """Drop all connections."""
        for client in list(self.clients):
            client.abort()
        for pool in self._pools.values():
            pool.close()
