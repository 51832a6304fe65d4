"""instance_actor.py with a Fleet beside it: a server has its adapters before it is used, and gets those of a change."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from dualmap.instances.actor import instance_actor
from dualmap.instances.actor.instance_actor import InstanceActor
from dualmap.instances.spec import InstanceSpec
from dualmap.router.fleet.actor import Fleet
from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters
from tests.conftest import WAIT_S
from tests.kept_server import KeptServer

SQL = json.dumps({"lora_name": "sql", "lora_path": "/sql"}).encode()
LAW = json.dumps({"lora_name": "law", "lora_path": "/law"}).encode()


class Story:
    """A server, the actor that watches it, and Fleet, in this process."""

    def __init__(self, directory: Path) -> None:
        self.server = KeptServer()
        self.fleet = new_fleet()
        self.reports: list[Member] = []
        self._directory = directory

    def start(self) -> None:
        spec = InstanceSpec("i", InstanceCapacity(), self._directory / "i.log", endpoint=self.server.endpoint)
        self.actor = InstanceActor(spec, self._report)

    async def _report(self, member: Member, signals: InstanceSignals, adapters: WantedAdapters) -> ReportAnswer:
        self.reports.append(member)
        return await self.fleet.report(member, signals, adapters)

    async def until(self, condition) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @property
    def ready(self) -> list[Member]:
        return [member for member in self.reports if member.state is MemberState.READY]


def new_fleet() -> Fleet:
    return Fleet(("i",), {"": SchedulerConfig()})


@pytest.fixture
def told(tmp_path):
    """Runs a test's coroutine."""

    def run(tell) -> None:
        async def whole() -> None:
            story = Story(tmp_path)
            try:
                await tell(story)
            finally:
                await story.actor.stop()
                story.server.close()

        asyncio.run(whole())

    return run


def test_a_server_has_what_is_wanted_and_nothing_that_was_unloaded_before_it_is_used(told):
    async def tell(story: Story) -> None:
        await story.fleet.want_adapter("", "sql", SQL)
        await story.fleet.want_adapter("", "old", b"")
        story.server.adapters = {"old": "/old", "own": "/own"}
        story.start()
        await story.until(lambda: story.ready)
        assert story.server.adapters == {"own": "/own", "sql": "/sql"}
        assert set(story.ready[0].adapters) == {"own", "sql"}

    told(tell)


def test_a_server_that_lacks_what_was_loaded_elsewhere_gets_it_and_says_so(told):
    async def tell(story: Story) -> None:
        story.start()
        await story.until(lambda: story.ready)
        await story.fleet.want_adapter("", "sql", SQL)
        await story.until(lambda: story.ready[-1].adapters == ("sql",))

    told(tell)


def test_what_a_server_has_lost_is_loaded_again_unless_it_was_unloaded_a_moment_ago(told, monkeypatch):
    monkeypatch.setattr(instance_actor, "MODELS_INTERVAL_S", 0.05)
    monkeypatch.setattr(instance_actor, "HEARTBEAT_S", 1000.0)  # nothing is heard but before a load

    async def tell(story: Story) -> None:
        await story.fleet.want_adapter("", "sql", SQL)
        await story.fleet.want_adapter("", "law", LAW)
        story.start()
        await story.until(lambda: story.ready)
        await story.fleet.want_adapter("", "sql", b"")
        story.server.adapters.clear()
        await story.until(lambda: story.server.adapters == {"law": "/law"})
        await story.until(lambda: story.ready[-1].adapters == ("law",))
        loads = [line for line in story.server.seen if "load_lora" in line]
        assert len(loads) == 3  # two before it was used, and one again

    told(tell)


def test_another_fleet_hears_from_instances_what_was_wanted(told):
    async def tell(story: Story) -> None:
        await story.fleet.want_adapter("", "sql", SQL)
        story.start()
        await story.until(lambda: story.ready)
        story.fleet = new_fleet()
        other = Member("j", 1, Endpoint("h", 1), state=MemberState.STARTING, capacity=InstanceCapacity())

        async def heard() -> WantedAdapters | None:
            return (await story.fleet.report(other)).adapters

        async with asyncio.timeout(WAIT_S):
            while (wanted := await heard()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert wanted.loads == (("sql", SQL),)
        assert await story.fleet.begin_adapters("", "g-1") == wanted
        assert time.time_ns() >= wanted.version

    told(tell)
