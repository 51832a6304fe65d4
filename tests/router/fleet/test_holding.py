"""holding.py in Fleet's actor: which answers wait, and what ends the wait. No patience here ends by itself."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dualmap.router.fleet.actor import Fleet
from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample
from tests.conftest import WAIT_S

LONG_S = 10 * WAIT_S
TURNS = 20  # of the event loop: more than any answer takes
MEMBER = Member("a", 1, Endpoint("127.0.0.1", 8000), state=MemberState.READY, capacity=InstanceCapacity())
IDLE = InstanceLoad("a", 0, 0, waiting_tokens=0, kv_tokens=0)
BUSY = InstanceLoad("a", 1, 0, waiting_tokens=0, kv_tokens=0)
SIGNALS = InstanceSignals("a", LoadSample(0, 0, 0.0), 0.0)


class Gateway:
    def __init__(self, fleet: Fleet, name: str) -> None:
        self.link = GatewayLink(name)
        self.fleet = fleet

    async def ask(self, patience_s: float = LONG_S, load: InstanceLoad = IDLE):
        news = await self.fleet.sync(self.link.report((load,), {}), patience_s)
        self.link.hear(news)
        return news

    async def hear_all(self) -> None:
        for _ in range(3):
            await self.ask(0.0)

    def wait(self) -> "asyncio.Task":
        return asyncio.create_task(self.ask())


async def waits(task: "asyncio.Task") -> bool:
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return not task.done()


async def known() -> Fleet:
    fleet = Fleet(("a",), {"": SchedulerConfig()})
    await fleet.report(MEMBER, SIGNALS)
    return fleet


async def test_a_gateway_that_lacks_something_is_answered_at_once():
    fleet = await known()
    news = await Gateway(fleet, "g").ask()
    assert news.membership.members == (MEMBER,)
    assert news.held_s < LONG_S


async def lost(fleet):
    await fleet.report(replace(MEMBER, state=MemberState.LOST))


async def forgotten(fleet):
    await fleet.forget("a")


async def load_seen_again(fleet):
    await fleet.report(MEMBER, SIGNALS)


async def other_gateway_joined(fleet):
    await Gateway(fleet, "h").ask(0.0)


@pytest.mark.parametrize("move", [lost, forgotten, load_seen_again, other_gateway_joined])
async def test_an_idle_gateway_waits_until_something_is_new(move):
    fleet = await known()
    gateway = Gateway(fleet, "g")
    await gateway.hear_all()
    waiting = gateway.wait()
    assert await waits(waiting)
    await move(fleet)
    async with asyncio.timeout(WAIT_S):
        assert (await waiting).held_s > 0.0


async def test_an_idle_gateway_hears_of_each_load_of_another_and_stays_young_meanwhile(monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time, time_ns=time.time_ns)
    monkeypatch.setattr("dualmap.router.fleet.actor.time", clock)
    fleet = await known()
    idle, busy = Gateway(fleet, "g"), Gateway(fleet, "h")
    for gateway in (idle, busy):
        await gateway.hear_all()
    await idle.hear_all()
    waiting = idle.wait()
    assert await waits(waiting)
    now[0] += 1.0
    await busy.ask(0.0, BUSY)
    async with asyncio.timeout(WAIT_S):
        news = await waiting
    assert [load.running for load in news.others.loads] == [1]
    assert (await busy.ask(0.0, BUSY)).others.age_s == 0.0


async def test_idle_gateways_do_not_wake_each_other():
    fleet = await known()
    gateways = [Gateway(fleet, name) for name in "gh"]
    for gateway in (*gateways, gateways[0]):
        await gateway.hear_all()
    tasks = [gateway.wait() for gateway in gateways]
    for task in tasks:
        assert await waits(task)
        task.cancel()


async def test_an_answer_without_news_comes_when_the_patience_is_over():
    fleet = await known()
    gateway = Gateway(fleet, "g")
    await gateway.hear_all()
    async with asyncio.timeout(WAIT_S):
        news = await gateway.ask(0.01)
    assert (news.membership, news.signals) == (None, None)
    assert news.held_s >= 0.01
