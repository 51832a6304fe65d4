"""The instances of a cluster in virtual time: simulated engines, which take the time their profile gives.

What they have to say is under way for `network_s`, then the gateways' side is told.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.instances.simulated.profile_capacity import cached_by, truthful_capacity
from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_run import GapHistogram
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.scheduler.instance_capacity import InstanceCapacity


class _Server:
    """An instance's process: an engine, the step that runs, and the attempt of each request it has."""

    __slots__ = ("attempts", "busy", "engine", "factor", "hangs", "incarnation", "overdue", "since_s", "spec")

    def __init__(self, spec: InstanceSpec, incarnation: int, engine: Engine, since_s: float) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.engine = engine
        self.since_s = since_s
        self.factor = 1.0
        self.busy = False
        self.hangs = False
        self.overdue = False  # a step that would have ended while it hangs
        self.attempts: dict[str, int] = {}


class VirtualInstances:
    """first_token(request_id, attempt, cached_tokens) and finished(request_id, attempt) are told the gateways' side.
    token_gaps, computed_tokens, preemptions, instance_s: as in ClusterRun, of what has stopped or been `counted`;
    instance_s is without the time that a start takes."""

    def __init__(
        self,
        clock: VirtualClock,
        settings: ClusterSettings,
        first_token: Callable[[str, int, int], None],
        finished: Callable[[str, int], None],
    ) -> None:
        self._clock = clock
        self._network_s = settings.network_s
        self._first_token = first_token
        self._finished = finished
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
        self._servers[instance_id] = _Server(spec, incarnation, self._engine(spec.profile), self._clock.now)
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

    def add(self, instance_id: str, request: EngineRequest, attempt: int) -> bool:
        """False if it is not there."""
        server = self._servers.get(instance_id)
        if server is None:
            return False
        server.engine.add(request, self._clock.now)
        server.attempts[request.request_id] = attempt
        if not server.busy:
            self._start_step(server)
        return True

    def abort(self, instance_id: str, request_id: str) -> None:
        if server := self._servers.get(instance_id):
            server.engine.abort(request_id)
            server.attempts.pop(request_id, None)

    def counted(self) -> None:
        """At the end of a run, of those that are still there."""
        for server in self._servers.values():
            self._count(server)

    def _engine(self, profile: EngineProfile) -> Engine:
        if self._shared is None:
            return Engine(profile)
        tier_tokens = sum(cached_by(spec.profile) for spec in self._specs.values())
        return Engine(replace(profile, offload_tokens=tier_tokens), self._shared)

    def _start_step(self, server: _Server) -> None:
        now = self._clock.now
        ends = server.engine.start_step(now)
        server.busy = ends is not None
        if ends is not None:
            self._clock.at(now + (ends - now) * server.factor, self._finish_step, server)

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
            self._clock.at(seen_s, self._finished, done.request_id, attempts.pop(done.request_id))
        self._start_step(server)

    def _count(self, server: _Server) -> None:
        counters = server.engine.counters
        instance_id = server.spec.instance_id
        computed = counters.prefix_cache_queries - counters.prefix_cache_hits
        self.computed_tokens[instance_id] = self.computed_tokens.get(instance_id, 0) + computed
        self.preemptions += counters.preemptions
        self.instance_s += self._clock.now - server.since_s
