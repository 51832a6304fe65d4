"""Fleet's board of what happened: the last events, which gateways hear and show."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from dualmap.scheduler.fleet.fleet_event import FleetEvent

MOST_EVENTS = 200


class EventNews(NamedTuple):
    """number: what the hearer says next time. tell_all: it knows what another Fleet told, and shall tell that."""

    number: int
    events: tuple[FleetEvent, ...]
    tell_all: bool = False


class EventBoard:
    """What it tells bears numbers that only grow, also from one Fleet to the next; who hears it says the last one it
    knows."""

    def __init__(self, first_number: int) -> None:
        """first_number: above 0, and above all that the board before this one has given."""
        self._first = self._number = first_number
        self._events: deque[tuple[int, FleetEvent]] = deque(maxlen=MOST_EVENTS)
        self._unlogged: deque[FleetEvent] = deque(maxlen=MOST_EVENTS)

    def put(self, event: FleetEvent) -> None:
        """Who tells it may not have heard that it was heard, and tell it again."""
        if all(event != known for _, known in self._events):
            self._number += 1
            self._events.append((self._number, event))
            self._unlogged.append(event)

    def adopt(self, events: Iterable[FleetEvent]) -> None:
        """What gateways tell: also what was known to another Fleet, and logged by that."""
        known = {event for _, event in self._events}
        for event in events:
            if event not in known:
                known.add(event)
                self._number += 1
                self._events.append((self._number, event))

    def news(self, known: int) -> EventNews | None:
        """What bears a higher number; None if nothing does."""
        if known == self._number:
            return None
        events = tuple(event for number, event in self._events if number > known)
        return EventNews(self._number, events, tell_all=0 < known < self._first)

    def take_unlogged(self) -> tuple[FleetEvent, ...]:
        """Those that were put here since the last call."""
        events = tuple(self._unlogged)
        self._unlogged.clear()
        return events
