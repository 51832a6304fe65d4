"""Fleet's board of signals: instances put theirs up, each gateway takes what it has not seen."""

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import CacheEvent, InstanceSignals, SignalNews
from dualmap.scheduler.tiers import MAX_SHARED_BLOCKS, forget_first

MAX_CHANGES_KEPT = 20_000  # a gateway that is further behind is told all that is cached
MOST_SHARINGS = 16  # whose shared blocks are kept


class Sharing(NamedTuple):
    """Instances that read the same tiers. models: that they serve. media: the tiers' names."""

    pool: str
    models: frozenset[str]
    revision: str
    media: tuple[str, ...]


class SignalBoard:
    """Changes bear numbers that only grow, also from one Fleet to the next; a gateway says the last one it knows."""

    def __init__(self, first_number: int) -> None:
        """first_number: above 0, and above all that the board before this one has given."""
        self._number = self._forgotten = first_number
        self._signals: dict[str, tuple[int, float, InstanceSignals]] = {}  # number, when it was sampled, signals
        self._changes: deque[tuple[int, CacheEvent]] = deque()
        # By instance and tier: its blocks, those stored first before others.
        self._cached: dict[str, dict[str, dict[int, None]]] = {}
        self._told: dict[str, int] = {}  # by instance: changes of its cache it has told of
        self._sharing: dict[str, Sharing] = {}  # by instance
        # The same of the tiers that instances share. Who comes late is told of them as of one of these instances.
        self._shared: dict[Sharing, dict[str, dict[int, None]]] = {}

    def put(self, signals: InstanceSignals, now: float, sharing: Sharing | None = None) -> bool:
        """False if changes of its cache were missed: the instance has to tell all it holds. sharing: None: all of its
        tiers are its own."""
        instance_id = signals.instance_id
        if sharing is not None:
            self._sharing[instance_id] = sharing
        self._number += 1
        sampled_at = now - signals.load_age_s
        self._signals[instance_id] = (self._number, sampled_at, replace(signals, cache=(), cache_complete=False))
        if not signals.cache_complete and signals.cache_from != self._told.get(instance_id, 0):
            return False
        self._told[instance_id] = signals.cache_from + len(signals.cache)
        for change in signals.cache:
            self._note(change)
        return True

    def put_again(self, instance_id: str, sampled_at: float) -> bool:
        """The last load was seen again. False if it is not known."""
        known = self._signals.get(instance_id)
        if known is None or known[2].load is None:
            return False
        self._number += 1
        self._signals[instance_id] = (self._number, sampled_at, known[2])
        return True

    def forget(self, instance_id: str) -> None:
        """The instance is gone, and its cache with it, but for what it shares."""
        self._signals.pop(instance_id, None)
        if instance_id in self._cached:
            self._note(CacheCleared(instance_id))  # what is on its way to a gateway must not outlive it
            del self._cached[instance_id]
        self._told.pop(instance_id, None)
        self._sharing.pop(instance_id, None)

    def news(self, known: int, now: float) -> SignalNews | None:
        """What is newer than the number known; None if nothing is."""
        if known == self._number:
            return None
        signals = tuple(
            replace(signals, load_age_s=now - sampled_at)
            for number, sampled_at, signals in self._signals.values()
            if number > known
        )
        if self._forgotten <= known <= self._number:
            cache = tuple(change for number, change in self._changes if number > known)
        else:
            cache = tuple(self._everything())
        return SignalNews(self._number, signals, cache)

    def _note(self, change: CacheEvent) -> None:
        cached = self._cached.setdefault(change.instance_id, {})
        match change:
            case BlocksStored():
                tier = self._tiers(change).setdefault(change.tier, {})
                tier.update(dict.fromkeys(change.blocks))
                forget_first(tier, MAX_SHARED_BLOCKS)
            case BlocksRemoved():
                tier = self._tiers(change).get(change.tier, {})
                for block in change.blocks:
                    tier.pop(block, None)
            case CacheCleared():
                cached.clear()
        self._number += 1
        self._changes.append((self._number, change))
        if len(self._changes) > MAX_CHANGES_KEPT:
            self._forgotten, _ = self._changes.popleft()

    def _tiers(self, change: BlocksStored | BlocksRemoved) -> dict[str, dict[int, None]]:
        """Among which the change's tier is: those of its instance, or of all who share it."""
        sharing = self._sharing.get(change.instance_id)
        if sharing is None or change.tier not in sharing.media:
            return self._cached[change.instance_id]
        shared = self._shared.setdefault(sharing, {})
        if len(self._shared) > MOST_SHARINGS:
            del self._shared[next(iter(self._shared))]
        return shared

    def _everything(self) -> list[CacheEvent]:
        changes: list[CacheEvent] = []
        for instance_id, cached in self._cached.items():
            changes.append(CacheCleared(instance_id))
            changes += _stored(instance_id, cached)
        by_age = sorted(self._sharing, key=lambda instance_id: self._signals[instance_id][0])
        latest = {self._sharing[instance_id]: instance_id for instance_id in by_age}  # others may be lost by now
        for sharing, tiers in self._shared.items():
            if sharing in latest:
                changes += _stored(latest[sharing], tiers)
        return changes


def _stored(instance_id: str, tiers: dict[str, dict[int, None]]) -> list[BlocksStored]:
    return [BlocksStored(instance_id, tuple(blocks), tier) for tier, blocks in tiers.items() if blocks]
