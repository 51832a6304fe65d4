"""A cluster in virtual time: the production core as gateways, the simulated engine as instances, one heap of events.

Nothing here decides anything: requests arrive as the workload says, `Scheduler.handle` is called as the live gateway
calls it, engines take the time their profile gives, messages take `network_s` each way. Two runs with equal settings
are equal to the last bit.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush
from itertools import chain
from math import isnan
from typing import Any

from instances.engine import Engine
from instances.engine_profile import EngineProfile
from instances.engine_types import EngineRequest
from instances.profile_capacity import cached_by, truthful_capacity
from loadtest.cluster_run import ClusterRun, GapHistogram, RequestOutcome
from loadtest.cluster_settings import Change, ClusterSettings, InstanceSpec
from loadtest.virtual_scaling import VirtualScaling
from loadtest.workload import Workload
from scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from scheduler.config import SchedulerConfig
from scheduler.core import Scheduler
from scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceCapacity,
    InstanceDraining,
    InstanceJoined,
    InstanceLost,
    MovesProposed,
    PrefixDepths,
    RequestArrived,
    RequestFailed,
    RequestFinished,
    Tick,
)
from scheduler.gateway_loads import summed
from scheduler.prefix_key import PrefixKeys
from scheduler.rebalance import plan_rebalance
from scheduler.request import Request

TICK_S = 0.1  # as in the live gateway
DETECT_S = 0.05  # a dead server's connections break, and the gateway's client notices


class _Server:
    """An instance's process: an engine and the step that runs."""

    __slots__ = ("busy", "engine", "factor", "incarnation", "spec")

    def __init__(self, spec: InstanceSpec, incarnation: int, engine: Engine) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.factor = 1.0
        self.engine = engine
        self.busy = False


class VirtualCluster:
    """One run. make_core: what stands in the place of a Scheduler. Cores may be wrapped (to write a journal) by
    `wrap`."""

    def __init__(
        self,
        workload: Workload,
        settings: ClusterSettings,
        wrap: Callable[[Any], Any] = lambda core: core,
        make_core: Callable[[SchedulerConfig], Any] = Scheduler,
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.outcomes = [RequestOutcome(r.arrival_s) for r in workload.requests]
        self.cores = [make_core(settings.config) for _ in range(settings.gateways)]
        self._gateways = [wrap(core) for core in self.cores]
        self._servers: dict[str, _Server] = {}
        self._specs = {spec.instance_id: spec for spec in settings.instances}
        self._incarnations: dict[str, int] = {}
        self._shared: OrderedDict[int, None] | None = OrderedDict() if settings.shared_cache else None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._now = 0.0
        self._left = len(workload.requests)
        self._followers: dict[int, list[int]] = {}
        self._running: dict[str, dict[tuple[int, str], int]] = {}  # instance -> (gateway, request id) -> attempt
        self._computed: dict[str, int] = {}
        self._preemptions = 0
        self._delay = settings.network_s
        self._gaps = GapHistogram()
        self._keys = PrefixKeys(
            settings.config.key_blocks, settings.config.max_key_blocks, adaptive=settings.config.adaptive_key
        )
        self._depths: tuple[int, dict[int, int]] = (0, {})  # what the gateways have agreed on, by epochs
        # By gateway, since the last digest.
        self._sent: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in self.cores]

    def run(
        self, *, give_up: Callable[[int, float], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> ClusterRun:
        """give_up(index, ttft_s) is told each first token, and each failure with an infinite TTFT; True ends the run.
        progress is told how many requests have ended."""
        self._give_up = give_up
        self._stopped = False
        changes = sorted(self.settings.changes, key=lambda change: change.at_s)
        first = {change.instance_id: change.kind for change in reversed(changes) if change.kind != "slow"}
        scaling = self._scaling()
        if scaling is not None:
            scaling.begin()
        else:
            for spec in self.settings.instances:
                if first.get(spec.instance_id) != "join":
                    self.join(spec.instance_id)
        for change in changes:
            self.at(change.at_s, self._change, change)
        for index, request in enumerate(self.workload.requests):
            if request.after is None:
                self.at(request.arrival_s, self._arrive, index)
            else:
                self._followers.setdefault(request.after, []).append(index)
        for gateway in range(len(self._gateways)):
            self.at(self._tick_s(0), self._tick, gateway, 1)
            for when in self.settings.plans:
                self.at(when, self._plan, gateway)
        if len(self._gateways) > 1:
            self.at(0.0, self._exchange_loads)
        heap = self._heap
        reported = self._left
        while self._left and not self._stopped:
            self._now, _, act, arguments = heappop(heap)
            act(*arguments)
            if progress is not None and reported - self._left >= 100:
                reported = self._left
                progress(len(self.outcomes) - self._left)
        instance_s = scaling.instance_s if scaling else self._now * len(self._servers)
        for server in self._servers.values():
            self._count_server(server)
        return ClusterRun(
            self.outcomes,
            self._gaps,
            self._computed,
            self._preemptions,
            sum(core.stats.moves_applied for core in self.cores),
            sum(core.stats.retries for core in self.cores),
            self._now,
            self._stopped,
            instance_s,
            scaling.timeline if scaling else [],
            scaling.plans if scaling else [],
        )

    def _scaling(self) -> VirtualScaling | None:
        settings = self.settings
        if settings.scaling is None:
            return None
        return VirtualScaling(self, settings.instances, settings.scaling, settings.start_s)

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heappush(self._heap, (when, self._count, act, arguments))

    # The clients.

    def _arrive(self, index: int) -> None:
        request = self.workload.requests[index]
        self.outcomes[index].arrived_s = self._now
        told = request.told or Request(
            str(index),
            self._prompt_blocks(index),
            request.prompt_tokens,
            request.output_tokens,
            block_tokens=self.workload.block_tokens,
        )
        self._tell(self._gateway_of(index), RequestArrived(told))

    def _prompt_blocks(self, index: int) -> tuple[int, ...]:
        """Full blocks only: a part of one is never hit."""
        request = self.workload.requests[index]
        if request.told:
            return request.told.blocks
        return request.blocks[: request.prompt_tokens // self.workload.block_tokens]

    def _gateway_of(self, index: int) -> int:
        return self.workload.requests[index].session % len(self._gateways)

    def _ended(self, index: int, ok: bool) -> None:
        outcome = self.outcomes[index]
        outcome.ok = ok
        self._left -= 1
        if not ok and self._give_up is not None and self._give_up(index, float("inf")):
            self._stopped = True
        for follower in self._followers.pop(index, ()):
            self.at(self._now + self.workload.requests[follower].think_s, self._arrive, follower)

    # The gateways.

    def _tell(self, gateway: int, event: Event) -> None:
        for command in self._gateways[gateway].handle(event, self._now):
            self._apply(gateway, command)

    def _apply(self, gateway: int, command: Command) -> None:
        match command:
            case Dispatch():
                if len(self._gateways) > 1:
                    self._sent[gateway].append((command.instance_id, self._prompt_blocks(int(command.request_id))))
                self.at(self._reaches_engine_s(command.instance_id), self._deliver, gateway, command)
            case Reject() | FailStream():
                self._ended(int(command.request_id), ok=False)
            case Abort():
                self.at(self._reaches_engine_s(command.instance_id), self._abort, gateway, command)

    def _reaches_engine_s(self, instance_id: str) -> float:
        """When what is sent to it is in its engine."""
        return self._now + self._delay + self._specs[instance_id].profile.api_s

    def _tick_s(self, number: int) -> float:
        ticks = self.settings.ticks
        if number < len(ticks):
            return ticks[number]
        return self._now + TICK_S if number else 0.0

    def _tick(self, gateway: int, number: int) -> None:
        """number: of those that this gateway has had, this one included."""
        self._tell(gateway, Tick())
        if not self.settings.plans:
            self._plan(gateway)
        self.at(self._tick_s(number), self._tick, gateway, number + 1)

    def _plan(self, gateway: int) -> None:
        snapshot = self.cores[gateway].snapshot(self._now)
        if snapshot is not None:
            moves = tuple(plan_rebalance(snapshot, self.cores[gateway].config))
            if moves:
                self._tell(gateway, MovesProposed(moves, snapshot.version))

    def _exchange_loads(self) -> None:
        late_s = self.settings.digest_delay_s
        delay_s = self._delay if late_s is None else late_s
        digests = [core.own_loads(self._now) for core in self.cores]
        for gateway in range(len(self.cores)):
            others = chain.from_iterable(digest for i, digest in enumerate(digests) if i != gateway)
            sent = tuple(prompt for i, prompts in enumerate(self._sent) if i != gateway for prompt in prompts)
            self.at(self._now + delay_s, self._tell, gateway, GatewayLoads(summed(others), sent, delay_s))
        self._agree_on_depths(delay_s)
        self._sent = [[] for _ in self.cores]
        self.at(self._now + self.settings.digest_s, self._exchange_loads)

    def _agree_on_depths(self, delay_s: float) -> None:
        """As Fleet does, from what all gateways have sent."""
        self._keys.resize(len(self._servers))
        for prompts in self._sent:
            for _, blocks in prompts:
                if blocks:
                    self._keys.observe(blocks)
        epoch, depths = self._depths
        if self._keys.depths != depths or not epoch:
            self._depths = (epoch + 1, dict(self._keys.depths))
            agreed = PrefixDepths(epoch + 1, tuple(self._keys.depths.items()))
            for gateway in range(len(self.cores)):
                self.at(self._now + delay_s, self._tell, gateway, agreed)

    # The instances.

    def _deliver(self, gateway: int, dispatch: Dispatch) -> None:
        server = self._servers.get(dispatch.instance_id)
        index = int(dispatch.request_id)
        self.outcomes[index].attempts = dispatch.attempt
        if server is None:
            failed = RequestFailed(dispatch.request_id, dispatch.attempt, 0, FailureCause.CONNECT)
            self.at(self._now + self._delay, self._tell, gateway, failed)
            return
        request = self.workload.requests[index]
        blocks = request.engine_blocks
        if blocks is None:
            blocks = self._prompt_blocks(index) + request.answer_blocks
        server.engine.add(
            EngineRequest(dispatch.request_id, blocks, request.prompt_tokens, request.output_tokens), self._now
        )
        self._running[dispatch.instance_id][gateway, dispatch.request_id] = dispatch.attempt
        self.outcomes[index].instance_id = dispatch.instance_id
        if not server.busy:
            self._start_step(server)

    def _abort(self, gateway: int, abort: Abort) -> None:
        if server := self._servers.get(abort.instance_id):
            server.engine.abort(abort.request_id)
            self._running[abort.instance_id].pop((gateway, abort.request_id), None)

    def _start_step(self, server: _Server) -> None:
        ends = server.engine.start_step(self._now)
        server.busy = ends is not None
        if ends is not None:
            self.at(self._now + (ends - self._now) * server.factor, self._finish_step, server)

    def _finish_step(self, server: _Server) -> None:
        instance_id = server.spec.instance_id
        if self._servers.get(instance_id) is not server:
            return
        output = server.engine.finish_step(self._now)
        for gap_s, count in output.token_gaps_s:
            self._gaps.add(gap_s, count)
        running = self._running[instance_id]
        seen_s = self._now + self._delay
        for first in output.first_tokens:
            index = int(first.request_id)
            self.outcomes[index].cached_tokens = first.cached_tokens
            self.at(seen_s, self._first_token, index, running[self._gateway_of(index), first.request_id])
        for finished in output.finished:
            index = int(finished.request_id)
            attempt = running.pop((self._gateway_of(index), finished.request_id))
            self.at(seen_s, self._finished, index, attempt)
        self._start_step(server)

    def _first_token(self, index: int, attempt: int) -> None:
        outcome = self.outcomes[index]
        outcome.first_token_s = self._now
        if self._give_up is not None and self._give_up(index, self._now - outcome.arrived_s):
            self._stopped = True
        self._tell(self._gateway_of(index), FirstToken(str(index), attempt))

    def _finished(self, index: int, attempt: int) -> None:
        outcome = self.outcomes[index]
        outcome.finished_s = self._now
        request = self.workload.requests[index]
        event = RequestFinished(
            str(index), attempt, request.output_tokens, outcome.cached_tokens, request.prompt_tokens
        )
        self._tell(self._gateway_of(index), event)
        self._ended(index, ok=True)

    # What the script changes.

    def _change(self, change: Change) -> None:
        match change.kind:
            case "join":
                self.join(change.instance_id)
            case "lose":
                self._lose(change.instance_id)
            case "leave":
                self.drain(change.instance_id)
                self._leave_when_idle(change.instance_id)
            case "slow":
                if server := self._servers.get(change.instance_id):
                    server.factor = change.factor
            case _:
                raise ValueError(f"kind of change must be join, lose, leave or slow, not {change.kind!r}")

    def capacity(self, instance_id: str) -> InstanceCapacity:
        """As the gateways are told."""
        spec = self._specs[instance_id]
        return spec.capacity or truthful_capacity(spec.profile)

    def drain(self, instance_id: str) -> None:
        """It gets no new request."""
        if server := self._servers.get(instance_id):
            for gateway in range(len(self._gateways)):
                self._tell(gateway, InstanceDraining(instance_id, server.incarnation))

    def leave(self, instance_id: str) -> None:
        """It stops: what still runs there fails."""
        self._lose(instance_id)

    def _leave_when_idle(self, instance_id: str) -> None:
        if any(core.instances[instance_id].running for core in self.cores):
            self.at(self._now + TICK_S, self._leave_when_idle, instance_id)
        else:
            self.leave(instance_id)

    def join(self, instance_id: str) -> None:
        if instance_id in self._servers:
            return
        spec = self._specs[instance_id]
        incarnation = self._incarnations[instance_id] = self._incarnations.get(instance_id, 0) + 1
        self._servers[instance_id] = _Server(spec, incarnation, self._engine(spec.profile))
        self._running[instance_id] = {}
        capacity = self.capacity(instance_id)
        for gateway in range(len(self._gateways)):
            self._tell(gateway, InstanceJoined(instance_id, incarnation, capacity))

    def _engine(self, profile: EngineProfile) -> Engine:
        if self._shared is None:
            return Engine(profile)
        tier_tokens = sum(cached_by(spec.profile) for spec in self.settings.instances)
        return Engine(replace(profile, offload_tokens=tier_tokens), self._shared)

    def _lose(self, instance_id: str) -> None:
        server = self._servers.pop(instance_id, None)
        if server is None:
            return
        self._count_server(server)
        for (gateway, request_id), attempt in self._running.pop(instance_id).items():
            tokens_sent = 0 if isnan(self.outcomes[int(request_id)].first_token_s) else 1
            failed = RequestFailed(request_id, attempt, tokens_sent, FailureCause.BROKEN)
            self.at(self._now + DETECT_S, self._tell, gateway, failed)
        for gateway in range(len(self._gateways)):
            lost = InstanceLost(instance_id, server.incarnation, "lost")
            self.at(self._now + DETECT_S, self._tell, gateway, lost)

    def _count_server(self, server: _Server) -> None:
        counters = server.engine.counters
        instance_id = server.spec.instance_id
        computed = counters.prefix_cache_queries - counters.prefix_cache_hits
        self._computed[instance_id] = self._computed.get(instance_id, 0) + computed
        self._preemptions += counters.preemptions
