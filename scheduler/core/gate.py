"""Scheduler.handle: events in, commands out. The only way to the core's mutable state.

A request is known from its arrival until Reject, FailStream, RequestFinished or RequestCancelled. In between it has
exactly one attempt, which waits in one instance's queue or runs on one instance, or it is held since no instance can
run it; what it has booked is given back when it leaves, on every path. Events for an attempt that is over are counted
and dropped.
"""

from typing import assert_never

from dualmap.scheduler.commands import Command
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import answers, arrival, membership, news, timers
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    Event,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
    InstanceLost,
    LoadReported,
    MovesProposed,
    PrefillDone,
    PrefixDepths,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    SettingsChanged,
    StreamContinued,
    Tick,
)
from dualmap.scheduler.snapshot import Snapshot
from dualmap.scheduler.take_snapshot import take_snapshot


class Scheduler:
    """`now` is in seconds of any monotonic clock, the same one at each call. What it shows of its books is to be read,
    not written."""

    def __init__(self, config: SchedulerConfig) -> None:
        books = self.books = Books(config)
        self.holders = books.holders
        self.loads = books.loads
        self.answers = books.answers
        self.policy = books.policy
        self.instances = books.instances
        self.attempts = books.attempts
        self.held = books.held
        self.stats = books.stats

    @property
    def config(self) -> SchedulerConfig:
        return self.books.config

    @property
    def version(self) -> int:
        """Counts changes of membership."""
        return self.books.version

    @property
    def listens(self) -> bool:
        """Whether news of the other gateways is wanted soon: requests wait, and what they wait for may be where others
        have just been served."""
        return self.books.untold.asks and self.loads.waiting > 0

    def handle(self, event: Event, now: float) -> list[Command]:
        """Apply the event and return what the driver has to do, in order. Raises ContractError for a reused request
        id."""
        books = self.books
        commands: list[Command] = []
        in_time = True  # False: the attempt or incarnation that it is about is over, or has had this event
        match event:
            case RequestArrived():
                arrival.request_arrived(books, event, now, commands)
            case StreamContinued():
                arrival.stream_continued(books, event, now, commands)
            case FirstToken():
                in_time = answers.first_token(books, event, now, commands)
            case PrefillDone():
                in_time = answers.prefill_done(books, event, now, commands)
            case RequestFinished():
                in_time = answers.request_finished(books, event, now, commands)
            case RequestFailed():
                in_time = answers.request_failed(books, event, now, commands)
            case RequestCancelled():
                in_time = answers.request_cancelled(books, event, now, commands)
            case ServedElsewhere():
                in_time = answers.served_elsewhere(books, event, now, commands)
            case Tick():
                timers.tick(books, now, commands)
            case BlocksStored() | BlocksRemoved() | CacheCleared():
                news.cache_reported(books, event)
            case LoadReported():
                news.load_reported(books, event, now, commands)
            case GatewayLoads():
                news.gateway_loads(books, event, now, commands)
            case MovesProposed():
                news.moves_proposed(books, event, now, commands)
            case PrefixDepths():
                in_time = news.prefix_depths(books, event)
            case SettingsChanged():
                news.settings_changed(books, event)
            case InstanceJoined():
                in_time = membership.instance_joined(books, event, now, commands)
            case InstanceDraining():
                in_time = membership.instance_draining(books, event, now, commands)
            case InstanceLost():
                in_time = membership.instance_lost(books, event, now, commands)
            case _:
                assert_never(event)
        if not in_time:
            books.stats.late_events += 1
        return commands

    def snapshot(self, now: float) -> Snapshot | None:
        """What plan_rebalance needs; None while no instance is hot or rebalancing is off."""
        books = self.books
        if not (books.config.rebalancing and books.policy.holds_requests):
            return None
        return take_snapshot(books.instances, books.loads, books.offers, books.version, books.config)

    def own_loads(self, now: float) -> tuple[InstanceLoad, ...]:
        """What this core has booked, for the other gateways."""
        return tuple(view.own_load(now) for view in self.instances.values())

    def check(self) -> None:
        """Raise AssertionError that names what is wrong, if the books contradict themselves. For tests and operators:
        it looks at all that is kept."""
        self.books.check()

    def story(self, request_id: str) -> tuple[str, ...]:
        """How the request came to its state, attempt by attempt: one in flight, or one of the last that are over."""
        attempts = [attempt for attempt in self.books.ended if attempt.request.id == request_id]
        attempts += filter(None, [self.attempts.get(request_id)])
        lines = [line for attempt in attempts for line in attempt.story()]
        if (held := self.held.find(request_id)) is not None:
            after_s = held.since - held.arrived_at
            lines.append(f"held since {after_s:.3f} s after its arrival: no instance can run it")
        return tuple(lines)
