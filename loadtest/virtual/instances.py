"""The instances of a cluster in virtual time: simulated engines, which take the time their profile gives.

What they have to say is under way for `network_s`, then the gateways' side is told. A prompt that another instance has
computed is read from there over the reader's link, as `dualmap sim-instance` reads it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.instances.simulated.leases import EXTENSION_S, HEARTBEAT_S, LEASE_S
from dualmap.instances.simulated.profile_capacity import cached_by, truthful_capacity
from dualmap.instances.simulated.transfer_link import TransferLink
from dualmap.loadtest.virtual.cache_teller import CacheTeller
from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_run import GapHistogram
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.scheduler.events import Event
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role


class _Server:
    """An instance's process: an engine, the step that runs, and the attempt of each request it has. sources: of those
    whose prompt is still to be read: the instance that has computed it."""

    __slots__ = (
        *("attempts", "busy", "engine", "factor", "hangs", "incarnation", "link", "overdue", "since_s", "sources"),
        *("spec", "teller"),
    )

    def __init__(
        self, spec: InstanceSpec, incarnation: int, engine: Engine, since_s: float, teller: CacheTeller | None
    ) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.engine = engine
        self.since_s = since_s
        self.factor = 1.0
        self.busy = False
        self.hangs = False
        self.overdue = False  # a step that would have ended while it hangs
        self.attempts: dict[str, int] = {}
        self.link = TransferLink(spec.profile)
        self.sources: dict[str, str] = {}
        self.teller = teller


class VirtualInstances:
    """first_token(request_id, attempt, cached_tokens), finished(request_id, attempt) and, where a prompt cannot be
    read, unread(request_id, attempt) are told the gateways' side; tell(gateway, event) what has changed in its cache,
    each digest_s, where settings.kv_events says so. token_gaps, computed_tokens, preemptions, instance_s: as in
    ClusterRun, of what has stopped or been `counted`; instance_s is without the time that a start takes."""

    def __init__(
        self,
        clock: VirtualClock,
        settings: ClusterSettings,
        first_token: Callable[[str, int, int], None],
        finished: Callable[[str, int], None],
        unread: Callable[[str, int], None],
        tell: Callable[[int, Event], None],
    ) -> None:
        self._clock = clock
        self._network_s = settings.network_s
        self._first_token = first_token
        self._finished = finished
        self._unread = unread
        self._tell = tell
        self._gateways = settings.gateways
        self._kv_events = settings.kv_events
        self._digest_s = settings.digest_s
        self._specs = {spec.instance_id: spec for spec in settings.instances}
        self._servers: dict[str, _Server] = {}
        self._incarnations: dict[str, int] = {}
        self._shared: OrderedDict[int, None] | None = OrderedDict() if settings.shared_cache else None
        self.token_gaps = GapHistogram()
        self.computed_tokens: dict[str, int] = {}
        self.preemptions = 0
        self.instance_s = 0.0

    def __len__(self) -> int:
        return len(self._servers)

    def capacity(self, instance_id: str) -> InstanceCapacity:
        """As the gateways are told."""
        spec = self._specs[instance_id]
        return spec.capacity or truthful_capacity(spec.profile)

    def spec(self, instance_id: str) -> InstanceSpec:
        return self._specs[instance_id]

    def relabel(self, instance_id: str, role: Role, revision: str) -> None:
        """From its next start on."""
        self._specs[instance_id] = replace(self._specs[instance_id], role=role, revision=revision)

    def api_s(self, instance_id: str) -> float:
        return self._specs[instance_id].profile.api_s

    def incarnation(self, instance_id: str) -> int | None:
        """None if it is not there."""
        server = self._servers.get(instance_id)
        return server.incarnation if server else None

    def start(self, instance_id: str) -> int | None:
        """Its incarnation; None if it is there already."""
        if instance_id in self._servers:
            return None
        spec = self._specs[instance_id]
        incarnation = self._incarnations[instance_id] = self._incarnations.get(instance_id, 0) + 1
        teller = None
        if self._kv_events != "none":
            teller = CacheTeller(instance_id, tiers=self._kv_events == "tiers")
        server = _Server(spec, incarnation, self._engine(spec.profile), self._clock.now, teller)
        self._servers[instance_id] = server
        if teller is not None:
            self._clock.at(self._clock.now + self._digest_s, self._tell_cache, server)
        return incarnation

    def generated(self, instance_id: str, request_id: str, attempt: int) -> int:
        """Tokens of its answer so far; 0 where the attempt is not there."""
        server = self._servers.get(instance_id)
        if server is None or server.attempts.get(request_id) != attempt:
            return 0
        return server.engine.generated(request_id)

    def stop(self, instance_id: str) -> dict[str, int]:
        """The requests that break off, and their attempts."""
        server = self._servers.pop(instance_id)
        self._count(server)
        return server.attempts

    def slow(self, instance_id: str, factor: float) -> None:
        if server := self._servers.get(instance_id):
            server.factor = factor

    def hang(self, instance_id: str) -> None:
        """It takes requests and ends no step."""
        if server := self._servers.get(instance_id):
            server.hangs = True

    def go_on(self, instance_id: str) -> None:
        """It hangs no more, if it did."""
        server = self._servers.get(instance_id)
        if server is None or not server.hangs:
            return
        server.hangs = False
        if server.overdue:
            server.overdue = False
            self._finish_step(server)

    def hangs(self, instance_id: str) -> bool:
        server = self._servers.get(instance_id)
        return server is not None and server.hangs

    def attempts(self, instance_id: str) -> dict[str, int]:
        """Of the requests that are there."""
        server = self._servers.get(instance_id)
        return dict(server.attempts) if server else {}

    def add(self, instance_id: str, request: EngineRequest, attempt: int, source: str = "") -> bool:
        """False if it is not there. source: of a request that loads: the instance that lends its prompt."""
        server = self._servers.get(instance_id)
        if server is None:
            return False
        server.engine.add(request, self._clock.now)
        server.attempts[request.request_id] = attempt
        if request.loads:
            server.sources[request.request_id] = source
            self._clock.at(self._clock.now + HEARTBEAT_S, self._hold, server, request.request_id, attempt)
        self._wake(server)
        return True

    def abort(self, instance_id: str, request_id: str) -> None:
        if server := self._servers.get(instance_id):
            server.engine.abort(request_id)
            server.attempts.pop(request_id, None)
            self._give_back(server.sources.pop(request_id, ""), request_id)
            if server.engine.waiting:
                self._wake(server)

    def counted(self) -> None:
        """At the end of a run, of those that are still there."""
        for server in self._servers.values():
            self._count(server)

    def _engine(self, profile: EngineProfile) -> Engine:
        kv_events = self._kv_events != "none"
        if self._shared is None:
            return Engine(profile, kv_events=kv_events)
        tier_tokens = sum(cached_by(spec.profile) for spec in self._specs.values())
        return Engine(replace(profile, offload_tokens=tier_tokens), self._shared, kv_events=kv_events)

    def _tell_cache(self, server: _Server) -> None:
        if self._servers.get(server.spec.instance_id) is not server:
            return
        for event in server.teller.told(server.engine.take_events()) if server.teller else ():
            for gateway in range(self._gateways):
                self._clock.at(self._clock.now + self._network_s, self._tell, gateway, event)
        self._clock.at(self._clock.now + self._digest_s, self._tell_cache, server)

    def _wake(self, server: _Server) -> None:
        """There may be something to do."""
        if not server.busy:
            self._start_step(server)

    def _start_step(self, server: _Server) -> None:
        now = self._clock.now
        ends = server.engine.start_step(now)
        server.busy = ends is not None
        if server.sources:
            for request_id, tokens in server.engine.take_loads():
                arrives_s = server.link.arrives_s(tokens, now)
                self._clock.at(arrives_s, self._loaded, server, request_id, server.attempts[request_id])
        if ends is not None:
            self._clock.at(now + (ends - now) * server.factor, self._finish_step, server)
        elif (read_s := server.engine.next_read_s) is not None:
            self._clock.at(read_s, self._wake, server)

    def _finish_step(self, server: _Server) -> None:
        if self._servers.get(server.spec.instance_id) is not server:
            return
        if server.hangs:
            server.overdue = True
            return
        output = server.engine.finish_step(self._clock.now)
        for gap_s, count in output.token_gaps_s:
            self.token_gaps.add(gap_s, count)
        attempts = server.attempts
        seen_s = self._clock.now + self._network_s
        for first in output.first_tokens:
            request_id = first.request_id
            self._clock.at(seen_s, self._first_token, request_id, attempts[request_id], first.cached_tokens)
        for done in output.finished:
            if done.lent_blocks:
                self._clock.at(self._clock.now + LEASE_S, self._expire, server)
            self._clock.at(seen_s, self._finished, done.request_id, attempts.pop(done.request_id))
        self._start_step(server)

    # Prompts that one instance has computed and another one reads.

    def _waits(self, server: _Server, request_id: str, attempt: int) -> bool:
        """Whether the attempt is still there, and without its prompt."""
        here = self._servers.get(server.spec.instance_id) is server and server.attempts.get(request_id) == attempt
        return here and request_id in server.sources

    def _hold(self, server: _Server, request_id: str, attempt: int) -> None:
        if self._waits(server, request_id, attempt):
            now = self._clock.now
            if lender := self._servers.get(server.sources[request_id]):
                lender.engine.leases.extend(request_id, now)
                self._clock.at(now + EXTENSION_S, self._expire, lender)
            self._clock.at(now + HEARTBEAT_S, self._hold, server, request_id, attempt)

    def _loaded(self, server: _Server, request_id: str, attempt: int) -> None:
        if not self._waits(server, request_id, attempt):
            return
        if self._give_back(server.sources.pop(request_id), request_id):
            server.engine.loaded(request_id)
        else:
            server.engine.abort(request_id)
            del server.attempts[request_id]
            self._clock.at(self._clock.now + self._network_s, self._unread, request_id, attempt)
        self._wake(server)

    def _give_back(self, instance_id: str, request_id: str) -> bool:
        """What the instance lends of the request's prompt. False if it lends it no more."""
        lender = self._servers.get(instance_id)
        if lender is None or not lender.engine.leases.give_back(request_id):
            return False
        self._wake(lender)
        return True

    def _expire(self, server: _Server) -> None:
        if server.engine.leases.expire(self._clock.now) and self._servers.get(server.spec.instance_id) is server:
            self._wake(server)

    def _count(self, server: _Server) -> None:
        counters = server.engine.counters
        instance_id = server.spec.instance_id
        computed = counters.prefix_cache_queries - counters.prefix_cache_hits - counters.external_prefix_cache_hits
        self.computed_tokens[instance_id] = self.computed_tokens.get(instance_id, 0) + computed
        self.preemptions += counters.preemptions
        self.instance_s += self._clock.now - server.since_s
