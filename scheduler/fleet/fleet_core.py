"""Fleet without its process: the one writer of membership. Instances report to it; gateways tell it what they have
booked and ask what changed since: members, what instances said of themselves, what the others have booked, the depths
all agree on."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.agreed_depths import AgreedDepths
from dualmap.scheduler.fleet.event_board import EventNews
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.fleet_teller import FleetTeller
from dualmap.scheduler.fleet.load_board import LoadBoard
from dualmap.scheduler.fleet.member import SERVING, Member, Membership, MemberState
from dualmap.scheduler.fleet.messages import Beat, FleetNews, FleetState, GatewayReport, PoolPlan
from dualmap.scheduler.fleet.signal_board import Sharing, SignalBoard
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.state_board import StateBoard
from dualmap.scheduler.fleet.wanted_adapters import AdapterBoard
from dualmap.scheduler.role import Role

SILENCE_S = 5.0  # without a report an instance that was started here counts as lost; five heartbeats
WATCHER_SILENCE_S = 30.0  # of others: what is away is the one process that watches them all, and they serve on
SETTLE_S = 5.0  # a restarted Fleet publishes nothing until every instance has reported, or for this long
TAKEN_S = 10.0  # for so long a server that runs may be said to start by those who begin to watch it
RETELL_S = 1.0  # what gateways only show, such as the reason of a state, is published at most this often
AWAY_S = 1.0  # nobody called for so long: it was Fleet's process that stood still, not the instances


class FleetCore:
    """Keeps no state that the reports of instances and gateways do not bring back: after a restart it settles, then
    publishes an epoch higher than any a gateway knows. `now` is in seconds of any monotonic clock, the same one at each
    call. adapters: what was loaded while servers run. teller: tells people what happens."""

    def __init__(
        self,
        expected: tuple[str, ...],
        configs: Mapping[str, SchedulerConfig],
        now: float,
        first_number: int = 1,
        unix_now: float = 0.0,
    ) -> None:
        """expected: ids of the instances that will report; those that a gateway has books of are waited for, too.
        configs: of each pool's core. first_number: see LoadBoard. unix_now: the same moment as `now`."""
        self._silent = set(expected)
        self._called_at = now
        self._settled_at = self._sure_at = now + SETTLE_S
        self._members: dict[str, Member] = {}
        self._reported_at: dict[str, float] = {}
        self._removed: dict[str, int] = {}  # instance -> its incarnation
        self._configs = configs
        self._signals = SignalBoard(first_number)
        self._loads = LoadBoard(first_number)
        self._states = StateBoard(first_number)
        self.adapters = AdapterBoard(first_number)
        self._depths = AgreedDepths(configs)
        self.teller = FleetTeller(first_number)
        self._plans: dict[tuple[str, Role], PoolPlan] = {}
        self._first_number = first_number
        self._taken_until: dict[str, float] = {}  # instances that gateways know better than who begins to watch them
        self._epoch = self._moved_to = 0
        self._changed = True
        self._counted = True  # how many members there are for each model, in the depths
        self._retold = False  # a member differs in what gateways only show
        self._published_at = now
        self._unix_zero_s = unix_now - now

    # Instances.

    def report(self, member: Member, signals: InstanceSignals | None, now: float) -> bool:
        """An instance's state, and what it says of itself; a report of an older incarnation is dropped. False if
        changes of its cache were missed: it has to tell all it holds."""
        instance_id = member.instance_id
        self._note_call(now)
        known = self._members.get(instance_id)
        if member.state is MemberState.STARTING and now < self._taken_until.get(instance_id, now):
            self._reported_at[instance_id] = now
            return True
        oldest = self._removed.get(instance_id, -1) + 1 if known is None else known.incarnation
        if member.incarnation < oldest:
            return True
        self._silent.discard(instance_id)
        self._reported_at[instance_id] = now
        if known != member:
            self._members[instance_id] = member
            self.teller.note(member, now, self._unix(now))
            last_word = member.state is MemberState.STOPPED  # it is forgotten next
            if known is not None and known.is_same_to_gateways(member) and not last_word:
                self._retold = True
            else:
                self._members_changed()
            if member.state not in SERVING or (known is not None and _is_another(member, known)):
                self._signals.forget(instance_id)
        return signals is None or self._signals.put(signals, now, self._sharing(member))

    def beat(self, beat: Beat, now: float) -> Member | None:
        """An instance is as it was when it reported last. None if that is not known: it has to report."""
        self._note_call(now)
        known = self._members.get(beat.instance_id)
        if known is None or (known.incarnation, known.state) != (beat.incarnation, beat.state):
            return None
        self._reported_at[beat.instance_id] = now
        seen = beat.load_age_s < 0.0 or self._signals.put_again(beat.instance_id, now - beat.load_age_s)
        return known if seen else None

    def forget(self, instance_id: str) -> None:
        """The instance is gone for good: it is no member any more, whatever it still says."""
        member = self._members.pop(instance_id, None)
        self._silent.discard(instance_id)
        self._removed.setdefault(instance_id, -1)
        if member is not None:
            del self._reported_at[instance_id]
            self._removed[instance_id] = member.incarnation
            self.teller.forget(member, self._unix(self._called_at))
            self._signals.forget(instance_id)
            self._members_changed()

    # Gateways.

    def sync(self, report: GatewayReport, now: float) -> FleetNews:
        """What is newer than the gateway knows. Gateways call this each 100 ms."""
        self._note_call(now)
        self._loads.put(report, now)
        if not self._counted:  # once for all that changed: hundreds of members come up in one report
            self._counted = True
            self._depths.resize(self._members)
        self._depths.observe(report.sent, self._members)
        if report.depths is not None:
            self._depths.adopt(report.depth_epoch, report.depths)
        tell_depths = report.depth_epoch > self._depths.epoch
        self._states.put(report.states)
        states = self._states.news(report.states_heard)
        self._take_over(report.members)
        self.teller.note_gateway(report, self._unix(now))
        if self._asks(report) or not self._is_settled(report):
            tell_members = not report.tells_members and (report.epoch > self._epoch or self._knows_another(report))
            events = self.events(report.events_heard)
            return FleetNews(tell_depths=tell_depths, tell_members=tell_members, states=states, events=events)
        self._lose_silent()
        self.teller.begin(self._members, report.epoch > self._epoch, now, self._unix(now))
        retell = self._retold and self._called_at - self._published_at >= RETELL_S
        if self._changed or retell or report.epoch > self._epoch:
            self._epoch = max(self._epoch, report.epoch) + 1
            self._moved_to = self._epoch if self._changed else self._moved_to
            self._changed = self._retold = False
            self._published_at = self._called_at
        membership = None
        if report.epoch != self._epoch:
            membership = Membership(self._epoch, self._in_order())
        others, heard = self._loads.others(report.gateway_id, report.heard, now)
        alone = others is None and not self._depths.epoch  # a single gateway finds depths by itself, and sooner
        return FleetNews(
            membership=membership,
            signals=self._signals.news(report.signals, now),
            others=others,
            heard=heard,
            depths={} if alone or tell_depths else self._depths.news(report.depth_epoch),
            tell_depths=tell_depths,
            gateways=self._loads.gateways(now),
            plans=tuple(self._plans.values()),
            states=states,
            events=self.events(report.events_heard),
        )

    def events(self, known: int, told: Iterable[FleetEvent] = ()) -> EventNews | None:
        """What happened after the number known. told: what the caller knows of."""
        now = self._called_at
        self.teller.put(told, self._unix(now))
        epoch = self._moved_to + self._changed
        self.teller.look(epoch, self._members, self._loads.gateways(now), now, self._unix(now))
        return self.teller.board.news(known)

    def state(self, now: float, plans: Iterable[PoolPlan] = ()) -> FleetState:
        """Of the whole deployment. plans: of the Autoscaler that asks, for gateways to show."""
        self._note_call(now)
        self._plans |= {(plan.pool, plan.role): plan for plan in plans}
        return FleetState(
            epoch=self._epoch + self._changed,
            settled=now >= self._sure_at,
            members=self._in_order(),
            gateways=self._loads.gateways(now),
            loads=self._loads.loads(),
            totals=self._loads.totals(),
            held=self._loads.held(),
        )

    # What these share.

    def _note_call(self, now: float) -> None:
        if now - self._called_at > AWAY_S:
            self._reported_at = dict.fromkeys(self._reported_at, now)
            self._sure_at = now + SETTLE_S
        self._called_at = now

    def _unix(self, now: float) -> float:
        return now + self._unix_zero_s

    def _in_order(self) -> tuple[Member, ...]:
        return tuple(self._members[i] for i in sorted(self._members))

    def _sharing(self, member: Member) -> Sharing | None:
        """With whom it shares tiers; None: with nobody."""
        config = self._configs.get(member.pool)
        if config is None or not config.shared_media or member.state not in SERVING:
            return None
        models = frozenset(model.name for model in member.models)
        return Sharing(member.pool, models, member.revision, config.shared_media)

    def _members_changed(self) -> None:
        self._changed = True
        self._counted = False

    def _take_over(self, members: Iterable[Member]) -> None:
        """From a gateway, until they report: servers run on while the one process that watches them is away, too."""
        for member in members:
            instance_id = member.instance_id
            watched = not member.pid and member.state in SERVING
            known = self._members.get(instance_id)
            begins = known is None or (known.state is MemberState.STARTING and known.endpoint == member.endpoint)
            if watched and begins and instance_id not in self._removed:
                self._silent.discard(instance_id)
                self._members[instance_id] = member
                self._reported_at[instance_id] = self._called_at
                self._taken_until[instance_id] = self._called_at + TAKEN_S
                self._members_changed()

    def _knows_another(self, report: GatewayReport) -> bool:
        """Whether it has heard of a Fleet before this one, and has not been heard since."""
        return 0 < report.events_heard < self._first_number

    def _asks(self, report: GatewayReport) -> bool:
        """For its members: what it knows of is not to vanish before it is watched again."""
        knows_more = self._knows_another(report) or (report.epoch > self._epoch and not self._members)
        if not knows_more or report.tells_members:
            return False
        self._changed |= report.epoch >= self._epoch  # the same epoch of two Fleets is not the same
        return True

    def _is_settled(self, report: GatewayReport) -> bool:
        if self._called_at >= self._settled_at:
            return True
        if report.epoch > self._epoch:  # we are the successor of a Fleet that knew more
            self._silent |= {load.instance_id for load in report.loads} - self._members.keys() - self._removed.keys()
        return not self._silent

    def _lose_silent(self) -> None:
        for instance_id, member in self._members.items():
            silent_s = self._called_at - self._reported_at[instance_id]
            most_s = SILENCE_S if member.pid else WATCHER_SILENCE_S
            if member.state not in (MemberState.LOST, MemberState.STOPPED) and silent_s > most_s:
                at = self._unix(self._called_at)
                why = f"its watcher has said nothing for {most_s:g} s"
                lost = self._members[instance_id] = replace(member, state=MemberState.LOST, reason=why, since=at)
                self.teller.note(lost, self._called_at, at)
                self._members_changed()
                self._signals.forget(instance_id)  # as gateways do: whoever comes back tells all it holds


def _is_another(member: Member, known: Member) -> bool:
    """Whether what was told of it before is not of it."""
    return member.incarnation > known.incarnation or member.capacity.cache_tokens != known.capacity.cache_tokens
