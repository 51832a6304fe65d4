"""What one instance says of itself: collected from its metrics and KV events, taken for the reports to Fleet."""

import asyncio
import time
from collections.abc import Callable

import zmq

from dualmap.instances.kv_events.stream import KvEventStream, connect_address
from dualmap.instances.server.metrics import ServerMetrics
from dualmap.instances.spec import KvEventSource
from dualmap.scheduler.fleet.signals import CacheEvent, InstanceSignals, KvEventState, LoadSample

STEPS_VALID_S = 5.0  # some scrapes may fail on a busy server


class SignalCollector:
    """has_news: set while there are changes of the cache to be told."""

    def __init__(self, instance_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.has_news = asyncio.Event()
        self._instance_id = instance_id
        self._clock = clock
        self._load: LoadSample | None = None
        self._told_load: LoadSample | None = None  # in the last report
        self._busy_steps: int | None = None
        self._sampled_at = 0.0
        self._events: KvEventStream | None = None
        self._exact = False
        self._changes: list[CacheEvent] = []
        self._told = 0
        self._tell_all = False

    def reset(self) -> None:
        """The server has begun a new life."""
        self._busy_steps = None
        self._load = self._told_load = None
        self._events = None
        self._changes = []
        self._told = 0
        self._tell_all = False

    @property
    def busy_steps(self) -> int | None:
        """Steps of the engine, as last scraped while it had requests; None where it has none, or that is not known, or
        too old to tell a standstill."""
        return self._busy_steps if self._clock() - self._sampled_at < STEPS_VALID_S else None

    def note_metrics(self, metrics: ServerMetrics) -> None:
        self._busy_steps = metrics.steps if metrics.running or metrics.waiting else None
        self._load = LoadSample(
            metrics.running,
            metrics.waiting,
            metrics.kv_used,
            preemptions=metrics.preemptions,
            adapters=metrics.adapters,
            progress=metrics.steps + metrics.prompt_tokens + metrics.generation_tokens,
        )
        self._sampled_at = self._clock()

    async def follow_kv_events(self, source: KvEventSource, host: str) -> None:
        """Until cancelled, or until they turn out not to be had, which is no loss of the instance. host: where the
        server runs."""
        self._exact = source.block_tokens > 0
        self._events = KvEventStream(
            self._instance_id,
            connect_address(source.endpoint, host),
            source.replay_endpoint and connect_address(source.replay_endpoint, host),
            source.topic,
            source.block_tokens or 1,
            self._exact,
            self._note_changes,
        )
        try:
            await self._events.run()
        except zmq.ZMQError as error:
            self._events.status.error = f"{source.endpoint}: {error}"

    def take_again(self) -> float | None:
        """How long ago the load that was told last was seen again, negative where it was not, if that is all there is
        to be reported; None where `take` has more."""
        same = self._load is None or self._load == self._told_load
        if not same or self._changes or self._tell_all or self._events is not None:
            return None
        if self._load is None:
            return -1.0
        self._load = None
        return self._clock() - self._sampled_at

    def take(self) -> InstanceSignals:
        """What is to be reported; each sample and each change of the cache is handed over once."""
        changes, told = tuple(self._changes), self._told
        tell_all, self._tell_all = self._tell_all, False
        if tell_all:
            changes, told = self._events.held() if self._events is not None and self._exact else (), 0
        self._changes = []
        self._told = told + len(changes)
        self.has_news.clear()
        self._told_load = load = self._load
        self._load = None
        age_s = self._clock() - self._sampled_at if load is not None else 0.0
        return InstanceSignals(
            self._instance_id,
            load,
            age_s,
            kv_events=self._kv_state(),
            cache=changes,
            cache_from=told,
            cache_complete=tell_all,
        )

    def tell_all(self) -> None:
        """What was handed over did not arrive: next time, all that is cached."""
        self._tell_all = True

    def _note_changes(self, changes: tuple[CacheEvent, ...]) -> None:
        self._changes.extend(changes)
        self.has_news.set()

    def _kv_state(self) -> KvEventState | None:
        if self._events is None:
            return None
        status = self._events.status
        age_s = None if status.last_batch_at is None else self._clock() - status.last_batch_at
        return KvEventState(
            self._exact, status.batches, status.gaps, resets=status.resets, age_s=age_s, error=status.error
        )
