"""The gateway of one process: its sockets, its members, its clock. Requests themselves are driven by RequestDriver."""

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dualmap.router.access.access import Access
from dualmap.router.gateway.admin import AdminService
from dualmap.router.gateway.at_work import AtWork
from dualmap.router.gateway.fleet_seen import FleetSeen
from dualmap.router.gateway.front import Front, HttpFront
from dualmap.router.gateway.hand_over import ADMIN, CLIENTS, NO_SOCKETS, Sockets
from dualmap.router.gateway.held import HeldHere
from dualmap.router.gateway.leaving import all_left
from dualmap.router.gateway.noted import Noted
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.tls import TlsFiles
from dualmap.router.observe.event_record import EventRecord
from dualmap.router.observe.instance_states import InstanceStates
from dualmap.router.observe.live_view import live_view
from dualmap.router.observe.member_row import status_rows
from dualmap.router.observe.metrics import GatewayMetrics, Gauges
from dualmap.router.observe.signal_ages import SignalAges
from dualmap.router.requests.adapter_changes import AdapterChanges
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.driver import RequestDriver
from dualmap.router.requests.instance_connections import InstanceConnections
from dualmap.router.requests.service import RequestService
from dualmap.router.requests.token_arrival import TokenArrival
from dualmap.router.scaling.endpoints import ScalingEndpoints
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import (
    GatewayLoads,
    InstanceLoad,
    LoadReported,
    MovesProposed,
    PrefixDepths,
    SettingsChanged,
    Tick,
)
from dualmap.scheduler.fleet.member import SERVING, Membership
from dualmap.scheduler.fleet.membership_events import membership_events
from dualmap.scheduler.fleet.messages import GatewayState, PoolPlan
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.signals import SignalNews
from dualmap.scheduler.snapshot import Move, Snapshot

TICK_S = 0.1  # assumed first tokens are late by half of it on average; a tick of an idle core costs a microsecond


class Gateway:
    """All methods are for the thread of the event loop."""

    def __init__(
        self,
        pools: Sequence[Pool],
        limits: HttpLimits,
        metrics: GatewayMetrics,
        *,
        block_tokens: int,
        clock: Callable[[], float] = time.monotonic,
        gateway_id: str = "gateway",
        admin_token: str | None = None,
        ask_for_usage: bool = True,
        tokens: TokenBlocks | None = None,
        scaling: ScalingEndpoints | None = None,
        access: Access | None = None,
        isolate_tenants: bool = False,
        heartbeat_s: float = 0.0,
        max_continuations: int = 0,
        named: Mapping[str, Collection[str]] | None = None,
        continue_by_text: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        """pools: one or more; `stop` closes their journals. block_tokens: as in the config of every scheduler.
        admin_token, scaling: see AdminService. ask_for_usage, isolate_tenants: see Admission. tokens: names the first
        pool's prompts by their tokens. heartbeat_s, max_continuations, access, tls, named: see RequestDriver,
        RequestService, HttpFront, ColdModels."""
        self.gateway_id = gateway_id
        self.pools = {pool.name: pool for pool in pools}
        self.scheduler = pools[0].scheduler
        self.metrics = metrics
        self.membership = Membership()
        self._schedulers = {pool.name: pool.scheduler for pool in pools}
        self.signals = SignalAges(list(self._schedulers.values()))
        self.events = EventRecord()
        self.states = InstanceStates(self._schedulers, clock, gateway_id, self.events.tell)
        cores = {pool.name: pool.core for pool in pools}
        self.admission = Admission(
            cores,
            block_tokens,
            clock,
            ask_for_usage,
            isolate_tenants,
            ask_for_ids=max_continuations > 0,
            named=named,
            connectors={pool.core: pool.connector for pool in pools},
        )
        self.connections = InstanceConnections(limits, clock)
        self.driver = RequestDriver(self.admission, self.connections, metrics, clock, gateway_id)
        self.driver.max_continuations = max_continuations
        self.held = HeldHere(self._schedulers, self.driver.exchanges)
        self.admission.set_holding(self.held.holding())
        self.admission.by_text = continue_by_text and max_continuations > 0
        if tokens is not None:
            arrival = TokenArrival(tokens, block_tokens, pools[0].core, self.driver.arrive, self.admission)
            self.driver.by_tokens = arrival
        self.adapters = AdapterChanges(self.connections, lambda: self.admission.models, tuple(cores), gateway_id)
        self.service = RequestService(self.driver, self.admission, self.adapters, access, clock)
        self._tls = tls
        self._limits = limits
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._started_at = clock()
        self._drained = asyncio.Event()
        self._pool_of: dict[str, Pool] = {}  # by instance
        self.noted = Noted(pools, self._started_at)
        self.driver.dispatched = self.noted.dispatched
        self.driver.first_token_came = self.noted.first_token_came
        self.fleet = FleetSeen()
        self.at_work = AtWork(self._schedulers.values(), self.driver.exchanges)
        self._next_sweep = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self.front: Front = HttpFront(self.service, limits, clock, tls)
        self._admin = AdminService(self, limits, clock, admin_token, scaling)
        metrics.bind(
            self._schedulers,
            lambda: self.membership,
            self._gauges,
            lambda: self.signals.ages(self._clock()),
            None if self.driver.by_tokens is None else self.driver.by_tokens.outcomes,
            lambda: self.fleet.plans,
            self.states.look,
            lambda: self.events.counts,
        )

    def serve_proxies(self) -> None:
        """Pick instances for a proxy that speaks Envoy's external processing protocol, instead of serving HTTP; before
        `start`. Needs dualmap[picker]; raises ImportError without it."""
        from dualmap.router.envoy.picker_front import PickerFront  # not needed elsewhere, and large

        tls = None if self._tls is None else self._tls.pem()
        self.driver.max_continuations = 0
        self.admission.change_no_body()
        self.front = PickerFront(self.driver, self.admission, self._limits, self._clock, self._alternatives, tls)

    # Lifecycle.

    async def start(
        self,
        host: str,
        port: int,
        reuse_port: bool = False,
        admin_host: str = "127.0.0.1",
        admin_port: int = 0,
        inherited: Sockets = NO_SOCKETS,
    ) -> None:
        """Listen. Port 0 takes a free one. inherited: what the gateway before this one listened with. Raises OSError if
        a port is taken."""
        await self.front.listen(host, port, reuse_port, inherited.get(CLIENTS, ()))
        try:
            await self._admin.start(admin_host, admin_port, inherited.get(ADMIN, ()))
        except OSError:
            self.front.close()
            raise
        self._tick()

    def listeners(self) -> dict[str, Sequence[int]]:
        """File descriptors of what listens here; empty where it cannot be handed over."""
        return {CLIENTS: self.front.filenos, ADMIN: self._admin.filenos} if self.front.filenos else {}

    async def leave(self, drain_s: float) -> None:
        """Others listen in our place. Returns once all has ended, or after `drain_s` seconds; then comes `stop`."""
        self.front.close()
        self._admin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await all_left(self.service)
                await self.adapters.finish()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Accept no more, let running exchanges end for up to `drain_s` seconds, then end the rest: with an error where
        the client has had nothing of an answer."""
        self.front.close()
        self.admission.stopping = True
        self.service.close_idle()
        self.driver.close_when_answered()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._drained.wait()
                await self.adapters.finish()
        self.driver.end_unanswered()
        await asyncio.sleep(0)  # what was written last leaves this process
        await self.front.abort()
        self.connections.close()
        self._admin.stop()
        if self._ticking is not None:
            self._ticking.cancel()
        for pool in self.pools.values():
            pool.close()

    @property
    def port(self) -> int:
        """The port that clients use, or the proxy that carries their requests."""
        return self.front.port

    @property
    def admin_port(self) -> int:
        return self._admin.port

    # What runs in the background tells and asks.

    def apply_membership(self, membership: Membership) -> None:
        """Take over a membership, unless it is older than the one in use or the same."""
        if membership.epoch <= self.membership.epoch:
            return
        old, self.membership = self.membership, membership
        self.admission.apply_membership(membership)
        self._pool_of = {m.instance_id: self.pools[m.pool] for m in membership.members if m.pool in self.pools}
        self.noted.pool_of = self._pool_of
        self.front.apply_membership(membership)
        self.adapters.apply_membership(membership)
        serving = {m.instance_id: m.endpoint for m in membership.members if m.state in SERVING}
        self.driver.stateful.cores = {i: self._pool_of[i].core for i in serving if i in self._pool_of}
        self.connections.set_endpoints(serving)
        for pool in self.pools.values():
            for event in membership_events(old.of_pool(pool.name), membership.of_pool(pool.name)):
                self.connections.note_membership(event)
                self.driver.change_members(event, pool.core, pool.scheduler)
            self.driver.refuse_unknown(pool.scheduler.held.ids())
        self.connections.forget(serving.keys())
        self.states.apply_membership(membership)

    def hear(self, news: SignalNews) -> None:
        """What instances said of themselves."""
        now = self._clock()
        for signals in news.signals:
            self.signals.note(signals, now)
            pool = self._pool_of.get(signals.instance_id)
            if pool is not None and (load := signals.load) is not None:
                self.connections.work.note_load(signals.instance_id, load, now - signals.load_age_s)
                reported = LoadReported(
                    signals.instance_id,
                    load.running,
                    load.waiting,
                    kv_used=load.kv_used,
                    age_s=signals.load_age_s,
                    adapters=load.adapters,
                )
                self.driver.handle(reported, pool.core)
        for change in news.cache:
            if (pool := self._pool_of.get(change.instance_id)) is not None:
                self.driver.handle(change, pool.core)

    def pool_name_of(self, instance_id: str) -> str | None:
        """Also of a server, by whose ranks. None where there is no such instance."""
        members = self.membership.members
        named = (m.pool for m in members if instance_id in (m.instance_id, m.endpoint.server.instance_id))
        return next((pool_name for pool_name in named if pool_name in self.pools), None)

    def note_fleet(self, peers: tuple[GatewayState, ...], plans: tuple[PoolPlan, ...] = ()) -> None:
        """Fleet has answered; all gateways that it knows, and what its Autoscalers plan."""
        self.fleet.note(peers, plans, self._clock())
        self.driver.stateful.others = len(self.fleet.peers) > 1
        if self.service.access is not None:
            self.service.access.set_gateways(self.fleet.sharing)

    # What gateways tell each other, over Fleet.

    def own_loads(self) -> tuple[InstanceLoad, ...]:
        """What this gateway has booked on each instance."""
        return tuple(load for pool in self.pools.values() for load in pool.scheduler.own_loads(self._clock()))

    def totals(self) -> dict[str, PoolTotals]:
        """Counters since the start, by pool."""
        return {name: PoolTotals.of(pool.scheduler.stats) for name, pool in self.pools.items()}

    @property
    def listens(self) -> bool:
        """Whether a core wants news of the other gateways soon."""
        return any(pool.scheduler.listens for pool in self.pools.values())

    def hear_others(self, loads: GatewayLoads) -> None:
        """What the other gateways have booked and sent."""
        for pool in self.pools.values():
            self.driver.handle(loads if len(self.pools) == 1 else pool.loads_of(loads, self._pool_of), pool.core)

    def agree(self, depths: dict[str, PrefixDepths]) -> None:
        """The depths that all gateways use from now on, by pool."""
        for name, agreed in depths.items():
            if (pool := self.pools.get(name)) is not None:
                pool.depths = agreed
                self.driver.handle(agreed, pool.core)

    def depths(self) -> dict[str, PrefixDepths]:
        """Those in use; empty where nothing was agreed on."""
        return {name: pool.depths for name, pool in self.pools.items() if pool.depths is not None}

    def _alternatives(self, dispatch: Dispatch) -> list[str]:
        return pool.alternatives(dispatch) if (pool := self._pool_of.get(dispatch.instance_id)) is not None else []

    def reconfigure(self, configs: Mapping[str, SchedulerConfig], limits: HttpLimits) -> None:
        """Settings that hold from now on. configs: by pool. limits: clients' open connections keep those they have."""
        self._limits = self.front.limits = limits
        self.connections.limit(limits)
        for name, config in configs.items():
            self.driver.handle(SettingsChanged(config), self.pools[name].core)
        self.admission.set_holding(self.held.holding())

    # Planning, by pool.

    def snapshots(self) -> dict[str, Snapshot]:
        """What planning needs; without the pools in which there is nothing to plan."""
        now, pools = self._clock(), self.pools.items()
        return {name: found for name, pool in pools if (found := pool.scheduler.snapshot(now)) is not None}

    def propose(self, pool_name: str, moves: tuple[Move, ...], version: int) -> None:
        """A plan made on the snapshot of that version."""
        self.driver.handle(MovesProposed(moves, version), self.pools[pool_name].core)

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as plain values."""
        depths = self.depths().values()
        return self._about() | {
            "pid": os.getpid(),
            "policy": ", ".join(dict.fromkeys(pool.scheduler.config.policy for pool in self.pools.values())),
            "models_served_twice": self.admission.models.twice,
            "in_flight": len(self.driver.exchanges),
            "held": sum(work.requests for work in self.held.work().values()),
            "client_connections": len(self.service.clients),
            "kept_states": len(self.driver.stateful.homes),
            "journal": "; ".join(pool.journal.state for pool in self.pools.values() if pool.journal) or None,
            "prefix_depths": {
                "epoch": max((agreed.epoch for agreed in depths), default=0),
                "keys": sum(len(agreed.depths) for agreed in depths),
            },
            "events": self.events.describe(),
            "members": status_rows(self.membership.members, self._schedulers, self.states, self.signals, self._clock()),
        }

    def live(self, pool_name: str | None, rings_known: str, events_known: str = "") -> dict[str, Any]:
        """See live_view, EventRecord.since. None: the first pool. Raises KeyError if there is no such pool."""
        name = next(iter(self.pools)) if pool_name is None else pool_name
        shown = live_view(
            name,
            self.pools[name].scheduler,
            self.membership.of_pool(name).members,
            timeline=self.noted.timelines[name],
            decisions=self.noted.decisions,
            signals=self.signals,
            states=self.states.describe(),
            rings_known=rings_known,
            now=self._clock(),
        )
        return self._about() | self.events.since(events_known) | shown

    def _about(self) -> dict[str, Any]:
        return {
            "gateway_id": self.gateway_id,
            "pools": list(self.pools),
            "epoch": self.membership.epoch,
            "uptime_s": self._clock() - self._started_at,
            "gateways": [dataclasses.asdict(peer) for peer in self.fleet.peers],
        }

    # Background.

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticking = loop.call_later(min(TICK_S, self._limits.sweep_interval_s), self._tick)
        for pool in self.pools.values():
            self.driver.handle(Tick(), pool.core)
        if self.admission.stopping and not self.driver.exchanges and not self.service.has_unsent:
            self._drained.set()
        self.at_work.look()
        now = self._clock()
        for timeline in self.noted.timelines.values():
            timeline.advance(now)
        if now >= self._next_sweep:
            self._next_sweep = now + self._limits.sweep_interval_s
            self.driver.sweep(now, self._limits, self._heartbeat_s)
            self.service.sweep(now)
            self.connections.sweep(now)
            self._admin.sweep(now)
            self.states.look()

    def _gauges(self) -> Gauges:
        return {
            "requests_in_flight": ("Requests that have come and not been answered whole.", len(self.driver.exchanges)),
            "client_connections": ("Open connections of clients.", len(self.service.clients)),
            "tasks": ("Tasks of the event loop.", len(asyncio.all_tasks())),
            **self.fleet.gauges(self._clock()),
        }
