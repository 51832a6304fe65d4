"""The gateway of one process: its sockets, its members, its clock. Requests themselves are driven by RequestDriver."""

import asyncio
import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from router.admin import AdminService, listening_port
from router.client_connection import ClientConnection
from router.fleet_state import GatewayState, PoolTotals, Sent
from router.journal import JournaledScheduler, JournalWriter
from router.limits import HttpLimits
from router.membership import Membership, MemberState
from router.membership_events import SERVING, membership_events
from router.metrics import GatewayMetrics
from router.model_list import ModelList
from router.request_driver import RequestDriver
from router.scaling_endpoints import ScalingEndpoints
from router.signal_ages import SignalAges
from router.signals import SignalNews
from router.token_blocks import TokenBlocks
from scheduler.commands import Dispatch
from scheduler.core import Scheduler
from scheduler.events import GatewayLoads, InstanceLoad, LoadReported, MovesProposed, PrefixDepths, Tick
from scheduler.snapshot import Move, Snapshot

TICK_S = 0.1  # assumed first tokens are late by half of it on average; a tick of an idle core costs a microsecond
MAX_SENT = 10_000  # prompts kept for the other gateways until Fleet has been told
LISTEN_BACKLOG = 1024  # a burst of new connections while a step of the loop runs


class Gateway:
    """All methods are for the thread of the event loop."""

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
        journal: JournalWriter | None = None,
        ask_for_usage: bool = True,
        tokens: TokenBlocks | None = None,
        scaling: ScalingEndpoints | None = None,
    ) -> None:
        """block_tokens: as in the scheduler's config. admin_token, scaling: see AdminService. journal: is told every
        event, and closed by `stop`. ask_for_usage, tokens: see RequestDriver."""
        self.gateway_id = gateway_id
        self.scheduler = scheduler
        self.metrics = metrics
        self.membership = Membership()
        self.journal = journal
        self.signals = SignalAges(scheduler)
        core = scheduler if journal is None else JournaledScheduler(scheduler, journal)
        self.driver = RequestDriver(core, limits, metrics, block_tokens, clock, gateway_id, ask_for_usage, tokens)
        self._limits = limits
        self._clock = clock
        self._started_at = clock()
        self._drained = asyncio.Event()
        self._depths: dict[str, PrefixDepths] = {}
        self.peers: tuple[GatewayState, ...] = ()  # all gateways, as Fleet knows them
        self._sent: deque[Sent] = deque(maxlen=MAX_SENT)
        self._next_sweep = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._admin = AdminService(self, limits, clock, admin_token, scaling)
        metrics.bind(
            scheduler,
            lambda: self.membership,
            self._gauges,
            lambda: self.signals.ages(self._clock()),
            None if self.driver.by_tokens is None else self.driver.by_tokens.outcomes,
        )

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
            lambda: ClientConnection(self.driver, self._limits, self._clock),
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
        if self._server is not None:
            self._server.close()
        self.driver.stop_taking()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._drained.wait()
        self.driver.abort()
        self._admin.stop()
        if self._ticking is not None:
            self._ticking.cancel()
        if self.journal is not None:
            self.journal.close()

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
        driver = self.driver
        driver.models = ModelList(membership)
        driver.ready = any(member.state is MemberState.READY for member in membership.members)
        serving = {m.instance_id: (m.host, m.port) for m in membership.members if m.state in SERVING}
        driver.set_addresses(serving)
        for event in membership_events(old, membership):
            driver.handle(event)
        driver.forget_addresses(serving.keys())

    def hear(self, news: SignalNews) -> None:
        """What instances said of themselves."""
        now = self._clock()
        for signals in news.signals:
            self.signals.note(signals, now)
            if (load := signals.load) is not None:
                self.driver.handle(
                    LoadReported(signals.instance_id, load.running, load.waiting, load.kv_used, signals.load_age_s)
                )
        for change in news.cache:
            self.driver.handle(change)

    # What gateways tell each other, over Fleet.

    def own_loads(self) -> tuple[InstanceLoad, ...]:
        """What this gateway has booked on each instance."""
        return self.scheduler.own_loads(self._clock())

    def totals(self) -> dict[str, PoolTotals]:
        """Counters since the start, by pool."""
        stats = self.scheduler.stats
        return {"": PoolTotals(stats.arrived, stats.arrived_work_tokens, stats.slo_kept, stats.slo_missed)}

    def share_sent(self, wanted: bool) -> None:
        """Whether there are other gateways, which want to know the prompts that this one sends."""
        self.driver.dispatched = self._note_sent if wanted else None

    def take_sent(self) -> tuple[Sent, ...]:
        """Prompts dispatched since the last call."""
        sent = tuple(self._sent)
        self._sent.clear()
        return sent

    def hear_others(self, loads: GatewayLoads) -> None:
        """What the other gateways have booked and sent."""
        self.driver.handle(loads)

    def agree(self, depths: dict[str, PrefixDepths]) -> None:
        """The depths that all gateways use from now on, by pool."""
        self._depths = depths
        for agreed in depths.values():
            self.driver.handle(agreed)

    def depths(self) -> dict[str, PrefixDepths]:
        """Those in use; empty where nothing was agreed on."""
        return self._depths

    def _note_sent(self, dispatch: Dispatch) -> None:
        attempt = self.scheduler.attempts.get(dispatch.request_id)
        if attempt is not None and attempt.request.blocks:
            self._sent.append((dispatch.instance_id, attempt.request.blocks))

    def propose(self, moves: tuple[Move, ...], version: int) -> None:
        """A plan made on the snapshot of that version."""
        self.driver.handle(MovesProposed(moves, version))

    def snapshot(self) -> Snapshot | None:
        """What planning needs; None while there is nothing to plan."""
        return self.scheduler.snapshot(self._clock())

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as plain values."""
        views = self.scheduler.instances
        signals = self.signals.describe(self._clock())
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
                    "others_running": view.others.running if view.others is not None else 0,
                    "waiting_tokens": view.waiting_tokens,
                    "prefill_tokens": view.booked_prefill_tokens,
                    "kv_tokens": view.booked_kv_tokens,
                    "seconds_per_token": view.seconds_per_token,
                    "signals": signals.get(member.instance_id, {}),
                }
            members.append(row)
        return {
            "gateway_id": self.gateway_id,
            "pid": os.getpid(),
            "policy": self.scheduler.config.policy,
            "epoch": self.membership.epoch,
            "uptime_s": self._clock() - self._started_at,
            "in_flight": len(self.driver.exchanges),
            "client_connections": len(self.driver.clients),
            "journal": self.journal and self.journal.state,
            "prefix_depths": {
                "epoch": max((agreed.epoch for agreed in self._depths.values()), default=0),
                "keys": sum(len(agreed.depths) for agreed in self._depths.values()),
            },
            "gateways": [dataclasses.asdict(peer) for peer in self.peers],
            "members": members,
        }

    # Background.

    def _tick(self) -> None:
        interval_s = min(TICK_S, self._limits.sweep_interval_s)
        self._ticking = asyncio.get_running_loop().call_later(interval_s, self._tick)
        self.driver.handle(Tick())
        if self.driver.stopping and self.driver.is_drained:
            self._drained.set()
        now = self._clock()
        if now >= self._next_sweep:
            self._next_sweep = now + self._limits.sweep_interval_s
            self.driver.sweep(now)
            self._admin.sweep(now)

    def _gauges(self) -> dict[str, float]:
        return {
            "requests_in_flight": len(self.driver.exchanges),
            "client_connections": len(self.driver.clients),
        }
