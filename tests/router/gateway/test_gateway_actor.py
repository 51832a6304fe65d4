"""gateway_actor.py with a Fleet of the test's own: when it calls, and what it passes on."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from logging import NullHandler

import pytest

from dualmap.router.config.load import load_config
from dualmap.router.gateway import gateway_actor
from dualmap.router.gateway.gateway_actor import GatewayActor
from dualmap.router.gateway.wish import Wish
from dualmap.router.local.local_reach import LocalReach
from dualmap.scheduler.events import GatewayLoads, InstanceLoad
from dualmap.scheduler.fleet.member import Membership
from dualmap.scheduler.fleet.messages import FleetNews, GatewayReport
from tests.conftest import WAIT_S
from tests.deployment import free_port


class Fleet:
    def __init__(self, reach) -> None:
        self.calls: asyncio.Queue[GatewayReport] = asyncio.Queue()

    async def sync(self, report: GatewayReport, patience_s: float = 0.0) -> FleetNews:
        self.calls.put_nowait(report)
        return FleetNews(others=GatewayLoads((InstanceLoad("a", 0, 0, waiting_tokens=0, kv_tokens=0),)))


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway_actor, "FleetClient", Fleet)
    monkeypatch.setattr(gateway_actor, "ProcessLog", lambda *about: NullHandler())  # of the whole process
    monkeypatch.setattr(gateway_actor, "SYNC_INTERVAL_S", 1000.0)
    gateway = {"port": free_port(), "admin_port": free_port()}
    config = load_config(None, {"simulate": {"count": 1}, "log_dir": str(tmp_path), "gateway": gateway})

    @asynccontextmanager
    async def start():
        before = signal.getsignal(signal.SIGTERM)
        actor = GatewayActor("g", config, LocalReach(str(tmp_path)))
        try:
            async with asyncio.timeout(WAIT_S):
                yield actor
            await actor.stop()
        finally:
            signal.signal(signal.SIGTERM, before)

    return start


async def test_a_gateway_calls_fleet_at_once_when_a_core_has_something_to_tell(started):
    async with started() as actor:
        await actor._fleet.calls.get()
        actor._gateway.driver.tell_others()
        await actor._fleet.calls.get()


async def test_an_idle_gateway_lets_fleet_wait_until_it_gets_something_to_do(started, monkeypatch):
    patience = asyncio.Queue()

    async def sync(self, report: GatewayReport, patience_s: float = 0.0) -> FleetNews:
        patience.put_nowait(patience_s)
        if patience_s:
            await asyncio.Event().wait()
        return FleetNews(Membership(1))

    monkeypatch.setattr(Fleet, "sync", sync)
    async with started() as actor:
        assert await patience.get() == 0.0  # it knows no members
        actor._to_tell.set()
        assert await patience.get() == gateway_actor.PATIENCE_S
        actor._gateway.at_work.set()
        assert await patience.get() == 0.0


async def test_a_core_hears_how_long_ago_it_told_what_the_others_know(started, monkeypatch):
    async with started() as actor:
        heard = asyncio.Queue()
        monkeypatch.setattr(actor._gateway, "hear_others", heard.put_nowait)
        assert (await heard.get()).told_s >= 0.0


async def test_sigterm_asks_once_for_a_gateway_that_follows_and_then_does_what_it_did_before(started):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        async with started() as actor:
            await actor._fleet.calls.get()
            os.kill(os.getpid(), signal.SIGTERM)
            assert await actor.wish() is Wish.THIS
            assert heard == []
            os.kill(os.getpid(), signal.SIGTERM)
            while not heard:  # noqa: ASYNC110
                await asyncio.sleep(0)
    finally:
        signal.signal(signal.SIGTERM, before)
