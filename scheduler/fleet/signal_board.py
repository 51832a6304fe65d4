"""Fleet's board of signals: instances put theirs up, each gateway takes what it has not seen."""

from collections import deque
from dataclasses import replace

from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet.signals import CacheEvent, InstanceSignals, SignalNews

MAX_CHANGES_KEPT = 20_000  # a gateway that is further behind is told all that is cached


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

    def put(self, signals: InstanceSignals, now: float) -> bool:
        """False if changes of its cache were missed: the instance has to tell all it holds."""
        instance_id = signals.instance_id
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
        """The instance is gone, and its cache with it."""
        self._signals.pop(instance_id, None)
        if instance_id in self._cached:
            self._note(CacheCleared(instance_id))  # what is on its way to a gateway must not outlive it
            del self._cached[instance_id]
        self._told.pop(instance_id, None)

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
                cached.setdefault(change.tier, {}).update(dict.fromkeys(change.blocks))
            case BlocksRemoved():
                tier = cached.get(change.tier, {})
                for block in change.blocks:
                    tier.pop(block, None)
            case CacheCleared():
                cached.clear()
        self._number += 1
        self._changes.append((self._number, change))
        if len(self._changes) > MAX_CHANGES_KEPT:
            self._forgotten, _ = self._changes.popleft()

    def _everything(self) -> list[CacheEvent]:
        changes: list[CacheEvent] = []
        for instance_id, cached in self._cached.items():
            changes.append(CacheCleared(instance_id))
            changes += [BlocksStored(instance_id, tuple(blocks), tier) for tier, blocks in cached.items() if blocks]
        return changes
