"""What instances and gateways tell Fleet, and what Fleet knows of the whole deployment."""

from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

from dualmap.scheduler.events import GatewayLoads, InstanceLoad, PrefixDepths
from dualmap.scheduler.fleet.event_board import EventNews
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.signals import InstanceSignals, SignalNews
from dualmap.scheduler.fleet.state_board import StateHome, StateNews
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.role import Role


class Sent(NamedTuple):
    """A prompt that was dispatched. blocks: what the instance's cache holds from then on. key_blocks: see Request."""

    instance_id: str
    blocks: tuple[int, ...]
    key_blocks: tuple[int, ...] = ()

    @property
    def block_count(self) -> int:
        return len(self.blocks) + len(self.key_blocks)


class CarriedRequests(NamedTuple):
    """What became of the requests of one gateway that a lost instance had. run_elsewhere: from their beginning, since
    their clients had nothing of an answer."""

    instance_id: str
    continued: int
    run_elsewhere: int
    failed: int


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """epoch, signals, heard: of the membership in use, of the last signals heard, and of the last prompts heard of that
    others sent. sent: prompts dispatched since the last report. depths: the agreed depths in use, by pool; None unless
    Fleet asked for them. admin: HOST:PORT of its admin endpoints. states: what instances keep for clients, learned
    since the last report; states_heard: up to what was heard of it. members: those in use, where Fleet asked for
    them, which tells_members says: there may be none. events: what this gateway has seen happen, and carried: what
    became of requests of lost instances, since the last report; events_heard: up to what was heard of events;
    told_before: all that were heard, where Fleet asked for them. leaving: another gateway has taken its place; it
    lets its answers end. held: by pool, what waits for an instance to come."""

    gateway_id: str
    epoch: int = 0
    signals: int = 0
    _: KW_ONLY
    heard: int = 0
    loads: tuple[InstanceLoad, ...] = ()
    sent: tuple[Sent, ...] = ()
    totals: dict[str, PoolTotals] = field(default_factory=dict)
    depth_epoch: int = 0
    depths: dict[str, PrefixDepths] | None = None
    admin: str = ""
    states: tuple[StateHome, ...] = ()
    states_heard: int = 0
    members: tuple[Member, ...] = ()
    tells_members: bool = False
    events: tuple[FleetEvent, ...] = ()
    carried: tuple[CarriedRequests, ...] = ()
    events_heard: int = 0
    told_before: tuple[FleetEvent, ...] = ()
    leaving: bool = False
    held: dict[str, HeldWork] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """age_s: since its last report. leaving: see GatewayReport."""

    gateway_id: str
    epoch: int
    admin: str
    _: KW_ONLY
    age_s: float
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many instances of a pool its Autoscaler wants, and between which numbers it may choose. role: of these
    instances; both: of all."""

    pool: str
    wanted: int
    least: int
    _: KW_ONLY
    most: int
    role: Role = Role.BOTH


class InstanceReport(NamedTuple):
    """An instance's state, what it says of itself, and what it was told of adapters before: all of it where Fleet asked
    for that."""

    member: Member
    signals: InstanceSignals
    adapters: WantedAdapters


class Beat(NamedTuple):
    """Nothing is new of an instance since it was reported last. adapters: the version it knows. load_age_s: since its
    last load was seen again; negative where it was not."""

    instance_id: str
    incarnation: int
    state: MemberState
    adapters: int
    load_age_s: float


@dataclass(frozen=True, slots=True)
class ReportAnswer:
    """What an instance is told when it reports. cache_known: else it has to tell all that is in its cache. adapters:
    what is wanted of its pool, where it does not know that. asks_adapters: it has to say what it knows of that.
    member_known: else a beat was not enough: it has to tell all."""

    cache_known: bool = True
    adapters: WantedAdapters | None = None
    _: KW_ONLY
    asks_adapters: bool = False
    member_known: bool = True


ALL_KNOWN = ReportAnswer()


@dataclass(frozen=True, slots=True)
class FleetNews:
    """What the gateway has not heard yet. others: None while it is the only one. heard: up to which prompt of others
    this is. tell_depths: Fleet does not know the agreed depths; the next report has to have them; tell_members: nor the
    members. gateways: all there are. plans: of the pools that are scaled. states: what instances keep for clients.
    events: what happened. held_s: for which the answer was held back, since there was nothing new."""

    membership: Membership | None = None
    signals: SignalNews | None = None
    others: GatewayLoads | None = None
    _: KW_ONLY
    heard: int = 0
    depths: dict[str, PrefixDepths] = field(default_factory=dict)
    tell_depths: bool = False
    tell_members: bool = False
    gateways: tuple[GatewayState, ...] = ()
    plans: tuple[PoolPlan, ...] = ()
    states: StateNews | None = None
    events: EventNews | None = None
    held_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetState:
    """loads: of all gateways together, by instance. totals, held: by pool, of all gateways. settled: every instance and
    every gateway has had the time to report."""

    epoch: int
    settled: bool
    members: tuple[Member, ...]
    _: KW_ONLY
    gateways: tuple[GatewayState, ...]
    loads: dict[str, InstanceLoad]
    totals: dict[str, PoolTotals]
    held: dict[str, HeldWork] = field(default_factory=dict)

    def is_drained(self, instance_id: str) -> bool:
        """Whether every gateway knows that the instance drains (or is gone), and none has a request there. Ask once a
        state shows it draining."""
        load = self.loads.get(instance_id)
        idle = load is None or not (load.running or load.waiting)
        return (
            self.settled
            and idle
            and bool(self.gateways)
            and all(gateway.epoch >= self.epoch for gateway in self.gateways)
        )
