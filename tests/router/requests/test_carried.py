"""What a gateway says of the requests that an instance carried when it was lost, with real sockets."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from dualmap.router.requests.carried import TOGETHER_S, Carried
from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.messages import CarriedRequests
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello
from tests.router.requests.numbered_stream import CARDS, ON, WAYS, Numbered, ask, dies

TOKEN = '{"id":"1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}'


async def carry(conversation: Conversation) -> None:
    """A stream is begun, another answer is not; neither ends."""
    if conversation.request.json.get("stream"):
        await conversation.begin_stream()
        await conversation.send_event(TOKEN)
    await conversation.closed_by_gateway()


@asynccontextmanager
async def carrying(fleet):
    """i0 has a stream of which the client has a token, and a request of which the client has nothing; i1 is idle."""
    async with fleet(carry, answer_hello, config=SchedulerConfig(suspect_s=0.01)) as f:
        f.apply(f.member(0))
        streaming, waiting = await f.client(), await f.client()
        plain = asyncio.create_task(waiting.post("/v1/chat/completions", CHAT))
        begun = asyncio.create_task(streaming.post("/v1/chat/completions", STREAM))
        await f.until(lambda: f.gateway.driver.first_token_came and len(f.instances[0].received) == 2)
        await f.until(lambda: any(driven.phase.name == "ANSWERING" for driven in f.gateway.driver.exchanges.values()))
        f.apply(f.member(0), f.member(1))
        yield f
        assert (await plain).status == 200, "it ran on i1"
        await begun


def carried(f) -> tuple[CarriedRequests, ...]:
    return f.gateway.driver.carried.take_lost()


async def test_what_broke_off_before_fleet_said_so_is_counted_with_the_loss(fleet):
    async with carrying(fleet) as f:
        f.instances[0].stop()
        await f.until(lambda: len(f.instances[1].received) == 1)
        assert carried(f) == (), "whether it is lost is not known yet"
        f.apply(f.member(0, MemberState.LOST), f.member(1))
        assert carried(f) == (CarriedRequests("i0", continued=0, run_elsewhere=1, failed=1),)
        assert carried(f) == ()


async def test_what_ran_when_fleet_said_so_is_counted(fleet):
    async with carrying(fleet) as f:
        f.apply(f.member(0, MemberState.LOST), f.member(1))
        assert carried(f) == (CarriedRequests("i0", continued=0, run_elsewhere=1, failed=1),)


async def test_a_server_that_was_replaced_within_a_moment_has_lost_what_it_carried(fleet):
    async with carrying(fleet) as f:
        f.apply(f.member(0, incarnation=2), f.member(1))
        assert carried(f) == (CarriedRequests("i0", continued=0, run_elsewhere=1, failed=1),)
        f.instances[0].script = answer_hello


@pytest.mark.parametrize("state", [MemberState.DRAINING, MemberState.LOST])
async def test_an_instance_that_carried_nothing_or_drains_has_nothing_to_tell(fleet, state):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, state), f.member(1))
        assert carried(f) == ()


async def test_a_stream_is_continued_from_the_instance_that_gave_some_of_it_alone(fleet):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (0, dies)}
    async with fleet(*[numbered] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["chat"], numbered)
        began = int(answer.headers["x-dualmap-instance"][1:])
        f.apply()
        told = {one.instance_id: (one.continued, one.run_elsewhere, one.failed) for one in carried(f)}
        assert told.pop(f"i{began}") == (1, 0, 0)
        assert list(told.values()) == [(0, 1, 0)], "the one that took the rest and gave nothing"


def test_instances_that_come_and_go_for_ever_leave_nothing():
    now = 0.0
    carried = Carried({}, lambda: now)
    for number in range(1000):
        now += TOGETHER_S / 2
        carried.note(f"pod-{number}", "r", begun=False)
    assert len(carried._counts) <= 3
