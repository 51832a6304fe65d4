"""Fleet's actor, called as Ray calls it, without Ray."""

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
    assert (await fleet.state(plan)).members == (MEMBER,)
    news = await fleet.sync(GatewayReport("gateway-0"))
    assert (news.membership.members, news.plans) == ((MEMBER,), (plan,))
    assert await fleet.forget("a")
    assert (await fleet.sync(GatewayReport("gateway-0", news.membership.epoch))).membership.members == ()


async def test_a_restarted_fleet_numbers_what_it_tells_above_all_of_the_one_before():
    numbers = []
    for _ in range(2):
        fleet = Fleet((), {"": SchedulerConfig()})
        numbers.append((await fleet.sync(GatewayReport("gateway-0"))).heard)
    assert 0 < numbers[0] < numbers[1]
