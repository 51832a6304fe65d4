"""What a gateway tells Fleet and has heard of it, with a Fleet that is told the time."""

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetNews, Sent
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample
from dualmap.scheduler.prefix_key import MIN_CROWD

NOW = 100.0
MEMBER = Member("a", 1, Endpoint("h", 1), state=MemberState.READY, capacity=InstanceCapacity())


def fleet_with_news(first_number: int = 1) -> FleetCore:
    fleet = FleetCore(("a",), {"": SchedulerConfig()}, NOW, first_number)
    fleet.report(MEMBER, InstanceSignals("a", LoadSample(1, 2, 0.5)), NOW)
    return fleet


def sync(fleet: FleetCore, link: GatewayLink, depths=None) -> FleetNews:
    news = fleet.sync(
        link.report((InstanceLoad("a", 1, 2, waiting_tokens=3, kv_tokens=4),), {"": PoolTotals(5)}, depths), NOW
    )
    link.hear(news)
    return news


def test_each_piece_of_news_is_told_once():
    fleet, link, other = fleet_with_news(), GatewayLink("g0"), GatewayLink("g1")
    news = sync(fleet, link)
    assert (news.membership.members, len(news.signals.signals)) == ((MEMBER,), 1)
    sync(fleet, other)
    other.note_sent([Sent("a", (7, 8))])
    sync(fleet, other)
    news = sync(fleet, link)
    assert (news.membership, news.signals, news.others.sent) == (None, None, (("a", (7, 8)),))
    assert sync(fleet, link).others.sent == ()


def test_prompts_are_told_again_until_fleet_answers():
    link = GatewayLink("g0")
    first, second = Sent("a", (1,)), Sent("a", (2,))
    link.note_sent([first])
    assert link.report((), {}).sent == (first,)
    link.note_sent([second])
    assert link.report((), {}).sent == (first, second)
    link.hear(FleetNews())
    assert link.report((), {}).sent == ()


def test_a_restarted_fleet_is_told_the_members_it_asks_for_and_loses_none():
    fleet, link = fleet_with_news(), GatewayLink("g0")
    epoch = sync(fleet, link).membership.epoch
    fleet = FleetCore(("a",), {"": SchedulerConfig()}, NOW, 2)
    assert sync(fleet, link).membership is None
    after = sync(fleet, link).membership
    assert (after.epoch, after.members) == (epoch + 1, (MEMBER,))
    assert link.report((), {}).members == ()


def test_a_restarted_fleet_is_told_the_depths_it_asks_for():
    fleet, link, other = fleet_with_news(), GatewayLink("g0"), GatewayLink("g1")
    sync(fleet, other)
    link.note_sent([Sent("a", tuple(hash_trace_ids([0, 100 + i, 200 + i]))) for i in range(4 * MIN_CROWD)])
    agreed = sync(fleet, link).depths
    assert agreed[""].depths
    successor = fleet_with_news(1000)
    assert sync(successor, link).tell_depths
    assert link.tell_depths
    sync(successor, link, depths=agreed)
    assert not link.tell_depths
    assert sync(successor, GatewayLink("g2")).depths == agreed
