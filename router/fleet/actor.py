"""Fleet: an actor around FleetCore, which it tells the time."""

import time
from collections.abc import Callable

from dualmap.router.fleet.holding import Holding
from dualmap.router.fleet.log_events import log_events
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.event_board import EventNews
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.fleet.messages import (
    ALL_KNOWN,
    Beat,
    FleetNews,
    FleetState,
    GatewayReport,
    InstanceReport,
    PoolPlan,
    ReportAnswer,
)
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import NOTHING_WANTED, WantedAdapters


class Fleet:
    """Each method is FleetCore's of the same name; those of adapters are AdapterBoard's. What it tells bears numbers
    above those of any Fleet before it."""

    def __init__(
        self,
        expected: tuple[str, ...],
        configs: dict[str, SchedulerConfig],
        open_log: Callable[[], object] = lambda: None,
    ) -> None:
        """open_log: returns what has to live as long as lines are logged."""
        self._log = open_log()
        first_number = time.time_ns()
        self._core = FleetCore(expected, configs, time.monotonic(), first_number=first_number, unix_now=time.time())
        self._followed: tuple[Member, ...] = ()  # the members of the number
        self._followed_number = first_number
        self._holding = Holding()

    async def report(
        self, member: Member, signals: InstanceSignals | None = None, adapters: WantedAdapters = NOTHING_WANTED
    ) -> ReportAnswer:
        """adapters: what the instance was told of them before; all of it where it was asked for that."""
        cache_known = self._core.report(member, signals, time.monotonic())
        self._core.adapters.adopt(member.pool, adapters)
        self._holding.note_move()
        return self._answer(cache_known, member.pool, adapters)

    async def report_many(
        self, reports: tuple[InstanceReport, ...], beats: tuple[Beat, ...]
    ) -> dict[str, ReportAnswer]:
        """By instance; those are left out of which all is known, and that know all."""
        answers = {report.member.instance_id: await self.report(*report) for report in reports}
        now = time.monotonic()
        for beat in beats:
            member = self._core.beat(beat, now)
            if member is None:
                answers[beat.instance_id] = ReportAnswer(member_known=False)
            else:
                answers[beat.instance_id] = self._answer(True, member.pool, WantedAdapters(beat.adapters))
        self._holding.note_move()
        return {instance_id: answer for instance_id, answer in answers.items() if answer != ALL_KNOWN}

    def _answer(self, cache_known: bool, pool: str, adapters: WantedAdapters) -> ReportAnswer:
        board = self._core.adapters
        asks = board.asks(adapters.version) and not adapters.loads
        return ReportAnswer(cache_known, board.news(pool, adapters.version), asks_adapters=asks)

    async def begin_adapters(self, pool: str, holder: str) -> WantedAdapters | None:
        return self._core.adapters.begin(pool, holder, time.monotonic())

    async def want_adapter(self, pool: str, name: str, load: bytes) -> bool:
        return self._core.adapters.want(pool, name, load)

    async def end_adapters(self, pool: str, holder: str) -> bool:
        """True, for who must know that it was heard."""
        self._core.adapters.end(pool, holder)
        return True

    async def exchange_adapters(self, known: dict[str, WantedAdapters]) -> dict[str, WantedAdapters]:
        return self._core.adapters.exchange(known)

    async def forget(self, instance_id: str) -> bool:
        """True, for who must know that it was heard."""
        self._core.forget(instance_id)
        self._holding.note_move()
        return True

    async def sync(self, report: GatewayReport, patience_s: float = 0.0) -> FleetNews:
        """patience_s: for which the gateway waits for an answer while there is nothing new to it."""

        def ask() -> FleetNews:
            news = self._core.sync(report, time.monotonic())
            log_events(self._core.teller.board.take_unlogged())
            return news

        return await self._holding.answer(report, patience_s, ask)

    async def state(self, plans: tuple[PoolPlan, ...] = (), events: tuple[FleetEvent, ...] = ()) -> FleetState:
        """events: that the caller knows of."""
        return self._look(0, events, plans)[0]

    async def follow(
        self, known: int, events: tuple[FleetEvent, ...] = (), members_known: int = 0
    ) -> tuple[tuple[Member, ...] | None, int, EventNews | None]:
        """The members, unless their number is the one known; that number; and what happened since the number known."""
        state, news = self._look(known, events, ())
        if state.members != self._followed:
            self._followed = state.members
            self._followed_number += 1
        members = None if members_known == self._followed_number else state.members
        return members, self._followed_number, news

    def _look(
        self, known: int, events: tuple[FleetEvent, ...], plans: tuple[PoolPlan, ...]
    ) -> tuple[FleetState, EventNews | None]:
        state = self._core.state(time.monotonic(), plans)
        news = self._core.events(known, events)
        if events:
            self._holding.note_move()
        log_events(self._core.teller.board.take_unlogged())
        return state, news
