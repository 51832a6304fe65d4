"""Fleet in virtual time: the live FleetCore, to which instances report, and which gateways call when their time has
come or their core asks for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.scheduler import Scheduler, SchedulerConfig
from dualmap.scheduler.events import Event
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.member import Member, Membership
from dualmap.scheduler.fleet.membership_events import membership_events
from dualmap.scheduler.fleet.messages import FleetNews, FleetState, PoolPlan, Sent
from dualmap.scheduler.fleet.pool_totals import PoolTotals

# As in the live gateway.
LEAST_GAP_S = 0.005  # between an answer and the next call
LISTEN_INTERVAL_S = 0.03  # while requests wait
HEARTBEAT_S = 1.0  # of instances
NUMBERS_EACH = 10**9  # of what Fleet tells, above those of any Fleet before it


@dataclass(slots=True)
class _Gateway:
    """calls: that it has made. asked: its core wants to be heard at once."""

    core: Scheduler
    link: GatewayLink
    membership: Membership = field(default_factory=Membership)
    calls: int = 0
    asked: bool = False
    may_ask_at: float = 0.0


class VirtualFleet:
    """Of one deployment with one pool. cores: of its gateways, by number. tell: give a gateway an event. answer_s: from
    a gateway's call to its answer."""

    def __init__(
        self,
        clock: VirtualClock,
        cores: Mapping[int, Scheduler],
        tell: Callable[[int, Event], None],
        *,
        config: SchedulerConfig,
        interval_s: float,
        answer_s: float,
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._interval_s = interval_s
        self._answer_s = answer_s
        self._config = config
        self._core = FleetCore((), {"": config}, clock.now)
        self._starts = 1
        self._away = False
        self._silent: set[str] = set()
        self._to_forget: list[str] = []  # said while nobody heard it
        self._gateways = {number: _Gateway(core, GatewayLink(str(number))) for number, core in cores.items()}
        self._members: dict[str, Member] = {}

    def begin(self, changes: bool) -> None:
        """Every gateway hears who is there. changes: instances will come or go; else a gateway that is alone has
        nothing more to tell or to hear."""
        for number in self._gateways:
            self._hear(number, self._gateways[number].link, self._sync(number))
        if len(self._gateways) == 1 and not changes:
            return
        self._clock.at(self._clock.now + HEARTBEAT_S, self._beat)
        for place, number in enumerate(self._gateways):
            first_s = self._interval_s * place / len(self._gateways)
            self._clock.at(first_s, self._call_when_due, number, 0)

    # Instances.

    def report(self, member: Member) -> None:
        """What is known better by now is not taken back."""
        known = self._members.get(member.instance_id)
        if known is not None and known.incarnation > member.incarnation:
            return
        self._members[member.instance_id] = member
        if not self._away:
            self._core.report(member, None, self._clock.now)

    def forget(self, instance_id: str) -> None:
        """It has left for good."""
        self._members.pop(instance_id, None)
        if self._away:
            self._to_forget.append(instance_id)
        else:
            self._core.forget(instance_id)

    def silence(self, instance_id: str, silent: bool) -> None:
        """Whether its reports come no more, though nobody says that it is lost."""
        if silent:
            self._silent.add(instance_id)
        else:
            self._silent.discard(instance_id)

    def _beat(self) -> None:
        if not self._away:
            for member in self._members.values():
                if member.instance_id not in self._silent:
                    self._core.report(member, None, self._clock.now)
        self._clock.at(self._clock.now + HEARTBEAT_S, self._beat)

    def state(self, plans: Iterable[PoolPlan] = ()) -> FleetState:
        return self._core.state(self._clock.now, plans)

    def kept(self) -> list[object]:
        """What Fleet keeps, and the gateways' sides of it."""
        return [self._core, *(gateway.link for gateway in self._gateways.values())]

    # Its own end.

    def stop(self) -> None:
        """Its process dies: nobody is heard or answered."""
        self._away = True

    def start_again(self) -> None:
        """Another process, which knows nothing that it is not told."""
        self._away = False
        self._starts += 1
        first_number = self._starts * NUMBERS_EACH
        self._core = FleetCore((), {"": self._config}, self._clock.now, first_number=first_number)
        while self._to_forget:
            self._core.forget(self._to_forget.pop())

    # Gateways.

    def leave(self, number: int) -> None:
        """The gateway's process dies."""
        del self._gateways[number]

    def enter(self, number: int, core: Scheduler, name: str) -> None:
        """Another process in its place, which hears who is there with its first call."""
        self._gateways[number] = _Gateway(core, GatewayLink(name))
        self._call(number)

    def note_sent(self, number: int, sent: Sent) -> None:
        """Its core has dispatched a prompt."""
        if len(self._gateways) > 1:
            self._gateways[number].link.note_sent([sent])

    def ask(self, number: int) -> None:
        """Its core wants to be heard at once."""
        gateway = self._gateways[number]
        if not gateway.asked:
            gateway.asked = True
            self._clock.at(max(self._clock.now, gateway.may_ask_at), self._call, number)

    def _call_when_due(self, number: int, calls: int) -> None:
        """calls: that it had made when this was planned; one made since has its own next."""
        gateway = self._gateways.get(number)
        if gateway is not None and calls == gateway.calls:
            self._call(number)

    def _call(self, number: int) -> None:
        now, gateway = self._clock.now, self._gateways.get(number)
        if gateway is None:  # asked for before its end
            return
        gateway.asked = False
        gateway.calls += 1
        gateway.may_ask_at = now + self._answer_s + LEAST_GAP_S
        if not self._away:
            news = self._sync(number)
            if news.membership is not None or news.others is not None or news.depths:
                self._clock.at(now + self._answer_s, self._hear, number, gateway.link, news)
        interval_s = min(self._interval_s, LISTEN_INTERVAL_S) if gateway.core.listens else self._interval_s
        self._clock.at(now + interval_s, self._call_when_due, number, gateway.calls)

    def _sync(self, number: int) -> FleetNews:
        """What Fleet answers; a call that follows before the answer has come does not ask for the same again."""
        now, gateway = self._clock.now, self._gateways[number]
        totals = {"": PoolTotals.of(gateway.core.stats)}
        held = {"": gateway.core.held.work()}
        news = self._core.sync(gateway.link.report(gateway.core.own_loads(now), totals, held=held), now)
        gateway.link.hear(news)
        return news

    def _hear(self, number: int, link: GatewayLink, news: FleetNews) -> None:
        """link: of the process that had asked; one that took its place hears nothing of this."""
        gateway, late_s = self._gateways.get(number), self._answer_s
        if gateway is None or gateway.link is not link:
            return
        if news.membership is not None:
            before, gateway.membership = gateway.membership, news.membership
            for event in membership_events(before, news.membership):
                self._tell(number, event)
        if news.others is not None:
            self._tell(number, replace(news.others, age_s=news.others.age_s + late_s, told_s=late_s))
        for depths in news.depths.values():
            self._tell(number, depths)
