"""What happened to the fleet lately, as this gateway has heard it of Fleet, or seen it itself."""

from collections import Counter, deque
from typing import Any

from dualmap.router.fleet.log_events import log_events
from dualmap.scheduler.fleet.event_board import MOST_EVENTS, EventNews
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent


class EventRecord:
    """counts: of what was heard and seen since the start, by kind."""

    def __init__(self) -> None:
        self.counts: Counter[EventKind] = Counter(dict.fromkeys(EventKind, 0))
        self._count = 0
        self._events: deque[FleetEvent] = deque(maxlen=MOST_EVENTS)
        self._news: deque[FleetEvent] = deque(maxlen=MOST_EVENTS)  # what Fleet is to be told
        self._heard = False  # from Fleet

    def tell(self, event: FleetEvent) -> None:
        """It was seen here."""
        self._news.append(event)
        self._take(event)

    def hear(self, news: EventNews) -> None:
        """What Fleet tells; what happened before this gateway was there is not counted, nor logged."""
        known = set(self._events)
        for event in news.events:
            if event not in known:
                if self._heard:
                    self._take(event)
                else:
                    self._keep(event)
        self._heard = True

    def take_news(self) -> tuple[FleetEvent, ...]:
        """What was seen here since the last call."""
        news = tuple(self._news)
        self._news.clear()
        return news

    def all(self) -> tuple[FleetEvent, ...]:
        """The last ones, oldest first."""
        return tuple(sorted(self._events, key=lambda event: event.at))

    def since(self, version: str) -> dict[str, Any]:
        """For the page, which knows them at that version: they are left out where there is nothing new."""
        now = f"{id(self):x}.{self._count}"
        return {"events_version": now} | ({} if version == now else {"events": self.describe()})

    def describe(self) -> list[dict[str, Any]]:
        """The same, newest first, as plain values, each with a sentence for people."""
        return [{**event.describe(), "said": event.sentence()} for event in reversed(self.all())]

    def _take(self, event: FleetEvent) -> None:
        self._keep(event)
        self.counts[event.kind] += 1
        log_events([event])

    def _keep(self, event: FleetEvent) -> None:
        self._events.append(event)
        self._count += 1
