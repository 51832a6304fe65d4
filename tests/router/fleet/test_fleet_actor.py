"""Fleet's actor, called as Ray calls it, without Ray."""

from dataclasses import replace

from dualmap.router.fleet.actor import Fleet
from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import GatewayReport, PoolPlan

MEMBER = Member("a", 1, Endpoint("127.0.0.1", 8000), state=MemberState.READY, capacity=InstanceCapacity())


async def test_what_instances_and_scalers_say_reaches_the_gateways_until_it_is_forgotten():
    fleet = Fleet(("a",), {"": SchedulerConfig()})
    assert (await fleet.report(MEMBER)).cache_known
    plan = PoolPlan("", 2, 1, most=4)
    assert (await fleet.state((plan,))).members == (MEMBER,)
    news = await fleet.sync(GatewayReport("gateway-0"))
    assert (news.membership.members, news.plans) == ((MEMBER,), (plan,))
    assert await fleet.forget("a")
    assert (await fleet.sync(GatewayReport("gateway-0", news.membership.epoch))).membership.members == ()


async def test_who_follows_is_told_the_members_when_they_are_others():
    fleet = Fleet(("a",), {"": SchedulerConfig()})
    await fleet.report(MEMBER)
    members, first, _ = await fleet.follow(0)
    assert members == (MEMBER,)
    assert await fleet.follow(0, (), first) == (None, first, (await fleet.follow(0))[2])
    drained = replace(MEMBER, state=MemberState.DRAINING)
    await fleet.report(drained)
    members, second, _ = await fleet.follow(0, (), first)
    assert (members, second > first) == ((drained,), True)
    another = Fleet(("a",), {"": SchedulerConfig()})
    await another.report(drained)
    assert (await another.follow(0, (), second))[0] == (drained,)


async def test_a_restarted_fleet_numbers_what_it_tells_above_all_of_the_one_before():
    numbers = []
    for _ in range(2):
        fleet = Fleet((), {"": SchedulerConfig()})
        numbers.append((await fleet.sync(GatewayReport("gateway-0"))).heard)
    assert 0 < numbers[0] < numbers[1]
