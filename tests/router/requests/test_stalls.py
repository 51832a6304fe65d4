"""When an instance that sends nothing is given up: not while it is seen to work, but at the longest limit at last."""

import asyncio
from collections.abc import Callable

import pytest

from dualmap.router.http.limits import HttpLimits
from dualmap.router.requests.exchange import Exchange
from dualmap.router.requests.instance_work import FRESH_S, InstanceWork
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample, SignalNews
from tests.router.conftest import STREAM, Conversation, Fleet, post

LIMITS = HttpLimits(first_byte_timeout_s=600.0, stall_timeout_s=60.0, sweep_interval_s=3600.0)
TOKEN = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
T = 1e9  # what the clock of the gateway says


def sample(progress: int = 0, running: int = 1, waiting: int = 0) -> LoadSample:
    return LoadSample(running, waiting, 0.1, progress=progress)


def working(work: InstanceWork, start: float, end: float, instance_id: str = "i0") -> None:
    """Each second its engine has made some steps."""
    for second in range(int(end - start) + 1):
        work.note_load(instance_id, sample(progress=10 * second), start + second)


def idle(work: InstanceWork, start: float, end: float) -> None:
    for second in range(int(end - start) + 1):
        work.note_load("i0", sample(progress=5, running=0), start + second)


class Silent:
    """A stream after its first token, or before it."""

    def __init__(self, fleet: Callable[..., object], tokens: int = 1, path: str = "/v1/chat/completions") -> None:
        self._more = asyncio.Event()
        self._path = path
        self._tokens = tokens
        self._context = fleet(self._script, limits=LIMITS, about={"clock": lambda: T})

    async def _script(self, conversation: Conversation) -> None:
        await conversation.begin_stream()
        for _ in range(self._tokens):
            await conversation.send_event(TOKEN)
        await self._more.wait()
        await conversation.send(b"e\r\n: keep-alive\n\n\r\n")
        await conversation.closed_by_gateway()

    async def __aenter__(self) -> "Silent":
        self.fleet: Fleet = await self._context.__aenter__()
        client = self._client = await self.fleet.client()
        await client.send(post(self._path, {**STREAM, "input": "hi"}))
        if self._tokens:
            await client.answer_head()
            await client.chunk()
        else:
            await self.fleet.until(lambda: len(self.fleet.instances[0].received) == 1)
        (exchange,) = self.fleet.gateway.driver.exchanges.values()
        assert isinstance(exchange, Exchange)
        self.exchange = exchange
        self.work = InstanceWork()
        assert not self.stalled(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._more.set()
        await self._context.__aexit__(*error)

    async def comment(self) -> None:
        self._more.set()
        assert await self._client.chunk() == b": keep-alive\n\n"

    def stalled(self, after_s: float) -> bool:
        return self.exchange.is_stalled(T + after_s, LIMITS, self.work)


async def test_a_stream_is_given_up_when_neither_it_nor_its_instance_does_anything(fleet):
    async with Silent(fleet) as stream:
        assert not stream.stalled(59)
        assert stream.stalled(61)


async def test_a_stream_is_not_given_up_while_its_engine_makes_steps(fleet):
    async with Silent(fleet) as stream:
        working(stream.work, T, T + 100)
        assert not stream.stalled(100)
        assert not stream.stalled(159)
        assert stream.stalled(161)


async def test_nor_while_other_answers_of_its_instance_go_on(fleet):
    async with Silent(fleet) as stream:
        stream.work.note_answer("i0", T + 50)
        stream.work.note_answer("i1", T + 90)
        assert not stream.stalled(109)
        assert stream.stalled(111)


async def test_nor_while_comments_come_in_it(fleet):
    async with Silent(fleet) as stream:
        pieces = stream.exchange.running.pieces
        await stream.comment()
        assert not stream.stalled(50)
        assert stream.exchange.running.pieces == pieces
        assert not stream.stalled(109)
        assert stream.stalled(111)


async def test_one_that_hangs_beside_others_is_given_up_at_last(fleet):
    async with Silent(fleet) as stream:
        working(stream.work, T, T + 700)
        assert not stream.stalled(599)
        assert stream.stalled(601)


async def test_the_first_token_may_take_the_longest_time_whatever_the_instance_says(fleet):
    async with Silent(fleet, tokens=0) as stream:
        idle(stream.work, T, T + 599)
        assert not stream.stalled(599)
        assert stream.stalled(601)


async def test_a_stream_is_given_up_soon_when_its_instance_says_that_it_runs_nothing(fleet):
    async with Silent(fleet) as stream:
        idle(stream.work, T + 5, T + 26)
        assert not stream.stalled(25)
        assert stream.stalled(26)
        stream.work.note_load("i0", sample(progress=5, running=0, waiting=1), T + 27)
        assert not stream.stalled(27)


async def test_a_response_may_pause_while_a_tool_runs(fleet):
    async with Silent(fleet, path="/v1/responses") as stream:
        idle(stream.work, T, T + 59)
        assert not stream.stalled(59)
        assert stream.stalled(61)


async def test_what_comes_in_one_stream_is_a_sign_of_life_of_its_instance(fleet):
    async with Silent(fleet) as stream:
        assert stream.work.worked_at("i0") == T
        assert stream.work.worked_at("i1") < 0


async def test_the_gateway_hears_of_the_work_of_its_instances_and_forgets_those_that_are_gone(fleet):
    async with fleet(limits=LIMITS) as f:
        work = f.gateway.connections.work
        for progress in (10, 10, 20):
            f.gateway.hear(SignalNews(1, (InstanceSignals("i0", sample(progress), 0.5),), ()))
        assert work.worked_at("i0") > 0
        f.apply()
        assert work.worked_at("i0") < 0


def noted(*samples: tuple[float, LoadSample]) -> InstanceWork:
    work = InstanceWork()
    for at, load in samples:
        work.note_load("a", load, at)
    return work


@pytest.mark.parametrize(
    ("samples", "worked_at"),
    [
        ([], None),
        ([(1.0, sample(10))], None),  # nobody knows since when
        ([(1.0, sample(10)), (2.0, sample(10))], None),
        ([(1.0, sample(10)), (2.0, sample(11)), (3.0, sample(11))], 2.0),
        ([(1.0, sample(10)), (2.0, sample(0))], None),  # it was started anew
        ([(1.0, sample(10)), (2.0, sample(0)), (3.0, sample(1))], 3.0),
    ],
)
def test_an_instance_works_when_its_progress_grows(samples, worked_at):
    assert noted(*samples).worked_at("a") == (-float("inf") if worked_at is None else worked_at)


@pytest.mark.parametrize(
    ("samples", "idle_s"),
    [
        ([], 0.0),
        ([(1.0, sample(running=0)), (3.0, sample(running=0))], 3.0),
        ([(1.0, sample(running=0)), (3.0, sample(running=0, waiting=1))], 0.0),
        ([(1.0, sample(running=0)), (2.0, sample()), (3.0, sample(running=0))], 1.0),
        ([(1.0, sample(5, running=0)), (3.0, sample(6, running=0))], 0.0),  # it does something all the same
        ([(3.9 - FRESH_S, sample(running=0))], 0.0),  # what it said is old
    ],
)
def test_an_instance_idles_while_it_says_so(samples, idle_s):
    assert noted(*samples).idle_s("a", 4.0) == idle_s
