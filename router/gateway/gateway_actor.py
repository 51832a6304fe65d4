"""The gateway's process: an actor that listens on its own sockets. No request and no token passes through what runs it,
Ray or not."""

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.gateway_settings import GatewaySettings
from dualmap.router.config.installed_policies import register_installed_policies
from dualmap.router.config.pool_settings import PoolSettings
from dualmap.router.fleet.client import FleetClient
from dualmap.router.gateway.collect_less import collect_less
from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.hand_over import NO_SOCKETS, HandOver, take_over
from dualmap.router.gateway.pool import Pool
from dualmap.router.gateway.unless import unless
from dualmap.router.gateway.wish import Wish
from dualmap.router.http.limits import HttpLimits
from dualmap.router.journal.writer import open_journal, path_for
from dualmap.router.observe.log_setup import ProcessLog
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.router.observe.reloads import Reloads
from dualmap.router.reach.names import REBALANCER, autoscaler_name
from dualmap.router.reach.reach import CallError, Reach, RefusedFormError
from dualmap.router.requests.request_log import RequestLog
from dualmap.router.requests.request_watcher import RequestWatcher
from dualmap.router.scaling.endpoints import ScalingEndpoints
from dualmap.router.tokens.token_blocks import load_token_blocks
from dualmap.scheduler import Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.messages import FleetNews, GatewayReport
from dualmap.scheduler.fleet.scaler import RefusedError
from dualmap.scheduler.snapshot import Snapshot

if TYPE_CHECKING:
    from dualmap.router.requests.request_traces import RequestTraces

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 0.1  # membership is at most this old; a dead instance's own connections show it sooner
PATIENCE_S = 0.5  # for which an idle gateway waits for news; it calls at once when it gets something to do
LISTEN_INTERVAL_S = 0.03  # while requests wait: an instance that others have left idles until it is heard of
LEAST_GAP_S = 0.005  # between an answer and the next call, however much there is to tell
SYNC_SHARE = 0.1  # of this process's time at the most: the books of a large fleet take long to tell and to hear
PLAN_TIMEOUT_S = 2.0  # a plan that takes longer is of no use
INFORM_RETRY_S = 0.1
INFORM_TRIES = 100
BIND_RETRY_S = 0.2
BIND_TRIES = 25  # a killed predecessor's sockets may take a moment to close


class GatewayActor:
    """Starts listening when it is made, and so again when it is restarted. SIGTERM asks for it to be replaced."""

    _before: Any = None  # handler of SIGTERM that the process had
    _terminated = False

    def __new__(cls, *_: object) -> Self:
        """In the process's main thread, where alone handlers of signals can be set; all else runs in another."""
        actor = super().__new__(cls)
        if threading.current_thread() is threading.main_thread():
            actor._before = signal.signal(signal.SIGTERM, actor._on_sigterm)
        return actor

    def __init__(self, gateway_id: str, config: DualMapConfig, reach: Reach, listeners_path: str = "") -> None:
        """reach: finds Fleet and the others. listeners_path: where the gateway before this one gives what it listens
        with; empty: there is none."""
        register_installed_policies()
        self._loop = asyncio.get_running_loop()
        self._wishes: asyncio.Queue[Wish] = asyncio.Queue()
        self._inherited = take_over(listeners_path) if listeners_path else NO_SOCKETS
        self._config = config
        self._reach = reach
        self._log = ProcessLog(config.log_dir.absolute(), gateway_id, config.logs.form)
        self._fleet = FleetClient(reach)
        settings = config.gateway
        block_tokens = next(iter(config.all_pools().values())).scheduler.block_tokens
        self._gateway = Gateway(
            [_pool(name, pool, settings, gateway_id) for name, pool in config.all_pools().items()],
            config.limits,
            GatewayMetrics(),
            block_tokens=block_tokens,
            gateway_id=gateway_id,
            admin_token=settings.admin_token(),
            ask_for_usage=settings.ask_for_usage,
            heartbeat_s=settings.heartbeat_s,
            max_continuations=settings.max_continuations,
            continue_by_text=settings.continue_by_text,
            named={name: pool.models for name, pool in config.all_pools().items()},
            access=settings.access(time.monotonic),
            isolate_tenants=settings.isolates_tenants,
            tls=settings.tls(),
            tokens=load_token_blocks(settings.tokenizer, block_tokens),
            scaling=ScalingEndpoints(
                self._call_autoscaler,
                tuple(config.all_pools()),
                self._pool_name_of,
                self._restart_gateways,
                picks=settings.picker is not None,
            ),
        )
        self._gateway.adapters.wishes = self._fleet
        self._gateway.service.cors = settings.cors_policy()
        self._gateway.admission.set_aliases(config.model_aliases)
        self._traces = _watch_requests(self._gateway, config)
        if settings.picker is not None:
            self._gateway.serve_proxies()
        self._link = GatewayLink(gateway_id)
        self._informed = asyncio.Event()
        self._to_tell = asyncio.Event()
        self._gateway.driver.tell_others = self._gateway.driver.stateful.ask = self._to_tell.set
        self._started = asyncio.create_task(self._start())
        self._background = [asyncio.create_task(self._follow()), asyncio.create_task(self._plan_moves())]

    def _pool_name_of(self, instance_id: str) -> str | None:
        return self._gateway.pool_name_of(instance_id)

    async def _call_autoscaler(self, pool_name: str, method: str, *arguments: Any) -> Any:
        return await self._reach(autoscaler_name(pool_name)).call(method, *arguments)

    async def ready(self) -> tuple[int, int, int]:
        """Port, admin port and process id, once it serves. Raises OSError if it cannot listen, RefusedFormError where
        Fleet is of another version."""
        ports = await self.listening()
        while not self._informed.is_set():
            if self._fleet.refused:
                raise RefusedFormError(self._fleet.refused)
            with suppress(TimeoutError):
                async with asyncio.timeout(INFORM_RETRY_S):
                    await self._informed.wait()
        return ports

    async def listening(self) -> tuple[int, int, int]:
        """The same, whether it knows any instance or not."""
        await self._started
        return self._gateway.port, self._gateway.admin_port, os.getpid()

    async def reconfigure(
        self, configs: dict[str, SchedulerConfig], limits: HttpLimits, model_aliases: dict[str, str], reloads: Reloads
    ) -> None:
        """Settings of the pools' cores, by pool. `dualmap up` calls this all the time once it has looked at a changed
        configuration: this process may have been restarted with that of the beginning."""
        if reloads.applied > self._gateway.metrics.reloads.applied:
            self._gateway.reconfigure(configs, limits)
            self._gateway.admission.set_aliases(model_aliases)
        self._gateway.metrics.reloads = reloads

    async def wish(self) -> Wish:
        """Which gateways are to be replaced, once somebody wishes it."""
        return await self._wishes.get()

    def _restart_gateways(self) -> tuple[str, ...]:
        """Have all of them replaced. Their ids. Raises RefusedError."""
        if not self._gateway.listeners():
            raise RefusedError("A picker's port cannot be handed over: restart `dualmap pick`.")
        self._wishes.put_nowait(Wish.ALL)
        return self._gateway.fleet.serving

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Once it asks to be replaced; once more it ends as the process would without a gateway."""
        loop: asyncio.AbstractEventLoop | None = getattr(self, "_loop", None)
        if loop is not None and not loop.is_closed() and not self._terminated:
            self._terminated = True
            loop.call_soon_threadsafe(self._wishes.put_nowait, Wish.THIS)
        elif callable(self._before):
            self._before(number, frame)

    async def hand_over(self) -> str:
        """Give what listens here to the process that asks at the path; empty where that cannot be."""
        listeners = self._gateway.listeners()
        return HandOver(listeners).path if listeners else ""

    async def leave(self) -> None:
        """Others listen in our place: let what is here end, for as long as configured, and stop."""
        self._link.leaving = True
        self._to_tell.set()
        await self._gateway.leave(self._config.gateway.leave_s)
        await self.stop(0.0)

    async def stop(self, drain_s: float | None = None) -> None:
        """Take no more requests and let the running ones end, for as long as configured."""
        for task in self._background:
            task.cancel()
        await self._gateway.stop(self._config.gateway.drain_s if drain_s is None else drain_s)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        self._log.close()

    async def _start(self) -> None:
        settings = self._config.gateway
        if self._inherited or self._reach.was_restarted():
            await self._inform()
        for tries_left in reversed(range(BIND_TRIES)):
            try:
                await self._gateway.start(
                    settings.host,
                    settings.port,
                    reuse_port=settings.count > 1,
                    admin_host=settings.admin_host,
                    admin_port=settings.admin_port,
                    inherited=self._inherited,
                )
                collect_less()
                return
            except OSError:
                if not tries_left:
                    raise
                await asyncio.sleep(BIND_RETRY_S)

    async def _inform(self) -> None:
        """Hear of the members before the first request comes: who was here before knew them, and clients come at once.
        Without Fleet it listens all the same, in the end."""
        for _ in range(INFORM_TRIES):
            news = await self._fleet.sync(self._link.report((), {}))
            if news is not None:
                self._hear(news, told_s=0.0)
            if self._informed.is_set():
                return
            await asyncio.sleep(INFORM_RETRY_S)

    async def _follow(self) -> None:
        """Keep up with the fleet."""
        await self._started
        while True:
            spent_s = 0.0
            try:
                spent_s = await self._sync()
            except Exception:  # a fault here must not leave the gateway with the members of this moment for good
                logger.exception("the gateway goes on without this round of news")
            gap_s = max(LEAST_GAP_S, spent_s / SYNC_SHARE)
            await asyncio.sleep(gap_s)
            with suppress(TimeoutError):
                interval_s = LISTEN_INTERVAL_S if self._gateway.listens else SYNC_INTERVAL_S
                async with asyncio.timeout(max(0.0, interval_s - gap_s)):
                    await self._to_tell.wait()

    async def _sync(self) -> float:
        """Seconds that it took here, without Fleet's."""
        began_at = time.monotonic()
        self._to_tell.clear()
        report = self._report()
        asked_at = time.monotonic()
        news = await self._ask(report)
        heard_at = time.monotonic()
        if news is not None:  # else what was sent is told again
            self._hear(news, told_s=heard_at - began_at - news.held_s)
        return time.monotonic() - heard_at + asked_at - began_at

    async def _ask(self, report: GatewayReport) -> FleetNews | None:
        """A gateway that has nothing to do waits until there is something new, or it has."""
        at_work = self._gateway.at_work
        if at_work.is_set() or not self._link.is_told:
            return await self._fleet.sync(report)
        news = await unless(self._fleet.sync(report, PATIENCE_S), self._to_tell, at_work)
        if at_work.is_set():
            self._to_tell.set()
        return news

    def _hear(self, news: FleetNews, told_s: float) -> None:
        """told_s: since the report was begun that this answers."""
        self._link.hear(news)
        gateway = self._gateway
        if news.membership is not None:
            gateway.apply_membership(news.membership)
            self._informed.set()
        if news.signals is not None:
            gateway.hear(news.signals)
        if news.events is not None:
            gateway.events.hear(news.events)
        gateway.note_fleet(news.gateways, news.plans)
        gateway.noted.sent.wanted = news.others is not None
        if news.others is not None:
            gateway.hear_others(replace(news.others, told_s=told_s))
        if news.depths:
            gateway.agree(news.depths)
        stateful = gateway.driver.stateful
        stateful.hear(() if news.states is None else news.states.homes)
        if self._link.tell_states:
            self._link.note_states(stateful.homes.all())
        if self._link.behind:
            self._to_tell.set()

    def _report(self) -> GatewayReport:
        gateway = self._gateway
        self._link.note_sent(gateway.noted.sent.take())
        self._link.note_states(gateway.driver.stateful.homes.take_news())
        self._link.note_events(gateway.events.take_news(), gateway.driver.carried.take_lost())
        told_before = gateway.events.all() if self._link.tell_events else ()
        depths = gateway.depths() if self._link.tell_depths else None
        admin = host_port(self._config.gateway.admin_host, gateway.admin_port)
        return self._link.report(gateway.own_loads(), gateway.totals(), depths, admin, told_before, gateway.held.work())

    async def _plan_moves(self) -> None:
        """Have moves planned while an instance is hot."""
        await self._started
        while True:
            await self._gateway.at_work.wait()
            for pool_name, snapshot in self._gateway.snapshots().items():
                await self._rebalance(pool_name, snapshot)
            await asyncio.sleep(SYNC_INTERVAL_S)

    async def _rebalance(self, pool_name: str, snapshot: Snapshot) -> None:
        config = self._gateway.pools[pool_name].scheduler.config
        try:
            async with asyncio.timeout(PLAN_TIMEOUT_S):
                moves = await self._reach(REBALANCER).call("plan", snapshot, config)
        except (CallError, TimeoutError):
            return  # what waits stays where it is until the planner is back
        self._gateway.propose(pool_name, moves, snapshot.version)


def _watch_requests(gateway: Gateway, config: DualMapConfig) -> "RequestTraces | None":
    """As configured. Raises ImportError where traces are wanted and dualmap[otel] is not there."""
    watchers: list[RequestWatcher] = [RequestLog(time.monotonic)] if config.logs.requests else []
    traces = None
    if config.traces is not None:
        from dualmap.router.requests.request_traces import otlp_traces  # of an extra

        settings = config.traces
        traces = otlp_traces(settings.otlp_endpoint, gateway.gateway_id, settings.sample, time.monotonic)
        watchers.append(traces)
    gateway.driver.watchers = tuple(watchers)
    return traces


def _pool(name: str, pool: PoolSettings, settings: GatewaySettings, gateway_id: str) -> Pool:
    about = f"{gateway_id}.{name}" if name else gateway_id
    path = settings.journal and path_for(settings.journal, about)
    config = pool.scheduler
    journal = open_journal(path, config, settings.journal_max_bytes, about)
    return Pool(name, Scheduler(config), journal, pool.kv_transfer.made())
