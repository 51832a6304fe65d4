"""Tells a person what happens to the fleet, a line each."""

import time
from collections import deque
from collections.abc import Callable
from time import monotonic

from dualmap.router.fleet.client import TIMEOUT_S
from dualmap.router.reach.reach import Call, Owned
from dualmap.scheduler.fleet.event_board import MOST_EVENTS, EventNews
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.fleet.member import Member

LOOK_S = 0.5
OF_STARTING = (EventKind.GATEWAY_JOINED, EventKind.EPOCH_MOVED)


class TellEvents:
    """say: is told a line. fleet: to be asked; None before it has been started."""

    fleet: Owned | None = None

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say = say
        self._clock = clock
        self._since: float | None = None  # from when on instances are told of, Unix seconds
        self._began = False
        self._number = 0  # up to which Fleet has told
        self._members_number = 0  # of the members it has told of
        self._said: deque[FleetEvent] = deque(maxlen=2 * MOST_EVENTS)
        self._untold: deque[FleetEvent] = deque(maxlen=MOST_EVENTS)  # of our own, for Fleet to tell others
        self._call: Call | None = None  # to Fleet, under way
        self._telling = 0  # how many of those go with it
        self._next_look = 0.0

    def instances_known(self) -> None:
        """How each instance is has just been said."""
        self._since = time.time()

    def begin(self) -> tuple[Member, ...]:
        """That gateways have started has just been said. The members there are. Raises CallError where Fleet is
        away."""
        assert self.fleet is not None
        members, self._members_number, news = self.fleet.call("follow", 0).result(TIMEOUT_S)
        self.begin_with(news)
        return members or ()

    def begin_with(self, news: EventNews | None) -> None:
        for event in () if news is None else news.events:
            if event.kind in OF_STARTING or event.at <= (self._since or 0.0):
                self._said.append(event)
        self.hear(news)

    def tell(self, event: FleetEvent) -> None:
        """It happened here: say it, and have Fleet tell it."""
        self._untold.append(event)
        self._say_once(event)

    def round(self) -> tuple[Member, ...]:
        """Look at Fleet now and then; waits for nothing. The members, where they are others than before. Raises
        CallError where Fleet is away."""
        assert self.fleet is not None
        now = self._clock()
        if self._call is None:
            if now >= self._next_look:
                self._next_look = now + LOOK_S
                self._telling = len(self._untold)
                known = (self._number, tuple(self._untold), self._members_number)
                self._call = self.fleet.call("follow", *known)
        elif self._call.done():
            call, self._call = self._call, None
            members, self._members_number, news = call.result()
            for _ in range(self._telling):
                self._untold.popleft()
            self.hear(news)
            return members or ()
        return ()

    def hear(self, news: EventNews | None) -> None:
        if news is not None:
            self._number = news.number
            for event in news.events:
                self._say_once(event)

    def _say_once(self, event: FleetEvent) -> None:
        if event not in self._said:
            self._said.append(event)
            self._say(event.sentence())
