"""The upper bound that a study compares with: all instances share one cache, one queue serves them first come, first
served.

No router can reach it with private caches at equal hit rates, since nothing is ever computed twice and no instance
idles while anything waits. It is a bound for FIFO only: another order can keep more requests within an objective.
"""

from collections import deque

from dualmap.scheduler.commands import Command, Dispatch
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import Event, FirstToken, InstanceJoined, InstanceLoad, RequestArrived, RequestFinished
from dualmap.scheduler.held_requests import HeldRequests
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.cache_view import CacheView
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.snapshot import Snapshot
from dualmap.scheduler.stats import SchedulerStats
from dualmap.scheduler.ttft_estimate import cached_tokens

RELEASE_WINDOW_S = 1.3  # work at an instance that still gets the next prompt: most of a step's token budget


class _Booked:
    def __init__(self, seconds_per_token: float, kv_tokens: int) -> None:
        self.seconds_per_token = seconds_per_token
        self.kv_tokens = kv_tokens
        self.prefill_tokens = 0
        self.reserved_tokens = 0

    @property
    def prefill_s(self) -> float:
        return self.prefill_tokens * self.seconds_per_token


class SharedCacheQueue:
    """In the place of a Scheduler: the events and commands of one, for a cluster without failures."""

    def __init__(self, release_window_s: float, block_tokens: int) -> None:
        self._window_s = release_window_s
        self._block_tokens = block_tokens
        self._queue: deque[tuple[Request, float]] = deque()
        self._instances: dict[str, _Booked] = {}
        self._running: dict[str, tuple[_Booked, int, int]] = {}  # instance, uncached and reserved tokens
        self._cache = CacheView(1, Holders(), 1)
        self._blocks = 0
        self.stats = SchedulerStats()
        self.held = HeldRequests()  # nothing ever is

    def handle(self, event: Event, now: float) -> list[Command]:
        match event:
            case InstanceJoined():
                capacity = event.capacity
                self._instances[event.instance_id] = _Booked(1 / capacity.prefill_tokens_per_s, capacity.kv_tokens)
                self._blocks += (capacity.cache_tokens or capacity.kv_tokens) // self._block_tokens
                self._cache = CacheView(self._blocks, Holders(), 1)
            case RequestArrived():
                self._queue.append((event.request, now))
            case FirstToken():
                booked, uncached, reserved = self._running[event.request_id]
                booked.prefill_tokens -= uncached
                self._running[event.request_id] = booked, 0, reserved
            case RequestFinished():
                booked, uncached, reserved = self._running.pop(event.request_id)
                booked.prefill_tokens -= uncached
                booked.reserved_tokens -= reserved
        return self._release(now)

    def snapshot(self, now: float) -> Snapshot | None:
        return None

    def own_loads(self, now: float) -> tuple[InstanceLoad, ...]:
        return ()

    def _release(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while self._queue:
            request, arrived_at = self._queue[0]
            instance_id, booked = min(self._instances.items(), key=lambda i: i[1].prefill_s)
            reserved = request.prompt_tokens + request.max_output_tokens
            if booked.prefill_tokens and (
                booked.prefill_s >= self._window_s or booked.reserved_tokens + reserved > booked.kv_tokens
            ):
                break
            self._queue.popleft()
            cached = cached_tokens(request, self._cache.held_blocks(request.blocks), self._block_tokens)
            self._cache.use(request.blocks)
            uncached = request.prompt_tokens - cached
            booked.prefill_tokens += uncached
            booked.reserved_tokens += reserved
            self._running[request.id] = booked, uncached, reserved
            queued_s = now - arrived_at
            commands.append(
                Dispatch(
                    request.id,
                    1,
                    instance_id,
                    reason=ChoiceReason.POLICY,
                    queued_s=queued_s,
                    estimated_ttft_s=0.0,
                    cached_tokens=cached,
                )
            )
        return commands


def make_bound(config: SchedulerConfig) -> SharedCacheQueue:
    """For `VirtualCluster(..., make_core=make_bound)` with ClusterSettings.shared_cache."""
    return SharedCacheQueue(RELEASE_WINDOW_S, config.block_tokens)
