"""Fleet: the one writer of membership. Instances report to it; gateways tell it what they have booked and ask what
changed since: members, what instances said of themselves, what the others have booked, the depths all agree on."""

import time
from dataclasses import replace

from dualmap.instances.member import Member, Membership, MemberState
from dualmap.instances.signals import InstanceSignals
from dualmap.router.fleet.agreed_depths import AgreedDepths
from dualmap.router.fleet.load_board import LoadBoard
from dualmap.router.fleet.signal_board import SignalBoard
from dualmap.router.fleet.state import FleetNews, FleetState, GatewayReport, PoolPlan
from dualmap.scheduler.config import SchedulerConfig

SILENCE_S = 5.0  # without a report an instance counts as lost; five heartbeats
SETTLE_S = 5.0  # a restarted Fleet publishes nothing until every instance has reported, or for this long
AWAY_S = 1.0  # nobody called for so long: it was this process that stood still, not the instances


class Fleet:
    """Keeps no state that the reports of instances and gateways do not bring back: after a restart it settles, then
    publishes an epoch higher than any a gateway knows."""

    def __init__(self, expected: tuple[str, ...], configs: dict[str, SchedulerConfig] | None = None) -> None:
        """expected: ids of the instances that will report; those that a gateway has books of are waited for, too.
        configs: of each pool's core."""
        self._silent = set(expected)
        self._called_at = time.monotonic()
        self._settled_at = self._sure_at = self._called_at + SETTLE_S
        self._members: dict[str, Member] = {}
        self._reported_at: dict[str, float] = {}
        self._removed: dict[str, int] = {}  # instance -> its incarnation
        self._signals = SignalBoard()
        self._loads = LoadBoard(time.monotonic)
        self._depths = AgreedDepths(configs if configs is not None else {"": SchedulerConfig()})
        self._plans: dict[str, PoolPlan] = {}
        self._epoch = 0
        self._changed = True

    # Instances.

    async def report(self, member: Member, signals: InstanceSignals | None = None) -> bool:
        """An instance's state, and what it says of itself; a report of an older incarnation is dropped. False if
        changes of its cache were missed: it has to tell all it holds."""
        instance_id = member.instance_id
        self._note_call()
        known = self._members.get(instance_id)
        oldest = self._removed.get(instance_id, -1) + 1 if known is None else known.incarnation
        if member.incarnation < oldest:
            return True
        self._silent.discard(instance_id)
        self._reported_at[instance_id] = self._called_at
        if known != member:
            self._members[instance_id] = member
            self._changed = True
            self._depths.resize(self._members)
            if member.state is MemberState.LOST or (known is not None and member.incarnation > known.incarnation):
                self._signals.forget(instance_id)
        return signals is None or self._signals.put(signals)

    async def forget(self, instance_id: str) -> bool:
        """The instance is gone for good: it is no member any more, whatever it still says. True, for who must know that
        it was heard."""
        member = self._members.pop(instance_id, None)
        self._silent.discard(instance_id)
        if member is not None:
            self._removed[instance_id] = member.incarnation
            self._signals.forget(instance_id)
            self._depths.resize(self._members)
            self._changed = True
        return True

    # Gateways.

    async def sync(self, report: GatewayReport) -> FleetNews:
        """What is newer than the gateway knows. Gateways call this each 100 ms."""
        self._note_call()
        self._loads.put(report)
        self._depths.observe(report.sent, self._members)
        if report.depths is not None:
            self._depths.adopt(report.depth_epoch, report.depths)
        if not self._is_settled(report):
            return FleetNews(tell_depths=report.depth_epoch > self._depths.epoch)
        self._lose_silent()
        if self._changed or report.epoch > self._epoch:
            self._epoch = max(self._epoch, report.epoch) + 1
            self._changed = False
        membership = None
        if report.epoch != self._epoch:
            membership = Membership(self._epoch, tuple(self._members[i] for i in sorted(self._members)))
        others, heard = self._loads.others(report.gateway_id, report.heard)
        tell_depths = report.depth_epoch > self._depths.epoch
        alone = others is None and not self._depths.epoch  # a single gateway finds depths by itself, and sooner
        depths = {} if alone or tell_depths else self._depths.news(report.depth_epoch)
        signals = self._signals.news(report.signals)
        gateways, plans = self._loads.gateways(), tuple(self._plans.values())
        return FleetNews(membership, signals, others, heard, depths, tell_depths, gateways, plans)

    async def state(self, plan: PoolPlan | None = None) -> FleetState:
        """Of the whole deployment. plan: of the Autoscaler that asks, for gateways to show."""
        self._note_call()
        if plan is not None:
            self._plans[plan.pool] = plan
        settled = self._called_at >= self._sure_at
        members = tuple(self._members[i] for i in sorted(self._members))
        gateways, loads, totals = self._loads.gateways(), self._loads.loads(), self._loads.totals()
        return FleetState(self._epoch + self._changed, settled, members, gateways, loads, totals)

    # What these share.

    def _note_call(self) -> None:
        now = time.monotonic()
        if now - self._called_at > AWAY_S:
            self._reported_at = dict.fromkeys(self._reported_at, now)
            self._sure_at = now + SETTLE_S
        self._called_at = now

    def _is_settled(self, report: GatewayReport) -> bool:
        if self._called_at >= self._settled_at:
            return True
        if report.epoch > self._epoch:  # we are the successor of a Fleet that knew more
            self._silent |= {load.instance_id for load in report.loads} - self._members.keys() - self._removed.keys()
        return not self._silent

    def _lose_silent(self) -> None:
        for instance_id, member in self._members.items():
            silent_s = self._called_at - self._reported_at[instance_id]
            if member.state is not MemberState.LOST and silent_s > SILENCE_S:
                self._members[instance_id] = replace(member, state=MemberState.LOST)
                self._changed = True
                self._depths.resize(self._members)
