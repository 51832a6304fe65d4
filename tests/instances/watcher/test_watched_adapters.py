"""watched.py with a Fleet beside it: a server has its adapters before it is used, and gets those of a change."""

import asyncio
import json
import time

import pytest

from dualmap.instances.watcher import watched, watcher
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.endpoint import NOWHERE
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters
from tests.conftest import WAIT_S
from tests.instances.watcher.conftest import Watch, is_ready, new_fleet, spec_of
from tests.kept_server import KeptServer

SQL = json.dumps({"lora_name": "sql", "lora_path": "/sql"}).encode()
LAW = json.dumps({"lora_name": "law", "lora_path": "/law"}).encode()


@pytest.fixture
def server():
    server = KeptServer()
    yield server
    server.close()


def test_a_server_has_what_is_wanted_and_nothing_that_was_unloaded_before_it_is_used(told, server):
    async def tell(watch: Watch) -> None:
        await watch.fleet.want_adapter("", "sql", SQL)
        await watch.fleet.want_adapter("", "old", b"")
        server.adapters = {"old": "/old", "own": "/own"}
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        assert server.adapters == {"own": "/own", "sql": "/sql"}
        assert set(watch.in_state(MemberState.READY)[0].adapters) == {"own", "sql"}

    told(tell)


def test_a_server_that_lacks_what_was_loaded_elsewhere_gets_it_and_says_so(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        await watch.fleet.want_adapter("", "sql", SQL)
        await watch.until(lambda: watch.in_state(MemberState.READY)[-1].adapters == ("sql",))

    told(tell)


def test_what_a_server_has_lost_is_loaded_again_unless_it_was_unloaded_a_moment_ago(told, server, monkeypatch):
    monkeypatch.setattr(watched, "MODELS_INTERVAL_S", 0.05)
    monkeypatch.setattr(watcher, "ROUND_S", 1000.0)  # nothing is heard but before a load

    async def tell(watch: Watch) -> None:
        await watch.fleet.want_adapter("", "sql", SQL)
        await watch.fleet.want_adapter("", "law", LAW)
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        await watch.fleet.want_adapter("", "sql", b"")
        server.adapters.clear()
        await watch.until(lambda: server.adapters == {"law": "/law"})
        await watch.until(lambda: watch.in_state(MemberState.READY)[-1].adapters == ("law",))
        loads = [line for line in server.seen if "load_lora" in line]
        assert len(loads) == 3  # two before it was used, and one again

    told(tell)


def test_another_fleet_hears_from_instances_what_was_wanted(told, server):
    async def tell(watch: Watch) -> None:
        await watch.fleet.want_adapter("", "sql", SQL)
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        watch.fleet = new_fleet()
        other = Member("j", 1, NOWHERE, state=MemberState.STARTING, capacity=InstanceCapacity())

        async def heard() -> WantedAdapters | None:
            return (await watch.fleet.report(other)).adapters

        async with asyncio.timeout(WAIT_S):
            while (wanted := await heard()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert wanted.loads == (("sql", SQL),)
        assert await watch.fleet.begin_adapters("", "g-1") == wanted
        assert time.time_ns() >= wanted.version

    told(tell)
