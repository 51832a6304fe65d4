"""adapter_keeper.py: one instance gets the adapters that its pool was given, with a real server that takes them."""

import asyncio
import json

import pytest

from dualmap.instances.server.server_client import ServerClient
from dualmap.instances.watcher.adapter_keeper import AdapterKeeper
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters
from tests.kept_server import KeptServer

SQL = json.dumps({"lora_name": "sql", "lora_path": "/sql"}).encode()


@pytest.fixture
def server():
    server = KeptServer()
    yield server
    server.close()


def client(server: KeptServer) -> ServerClient:
    return ServerClient(server.endpoint)


def keeper(*loads: tuple[str, bytes]) -> AdapterKeeper:
    keeper = AdapterKeeper("i")
    keeper.hear(ReportAnswer(adapters=WantedAdapters(7, loads=loads)))
    return keeper


def test_a_server_gets_what_it_lacks_and_nothing_twice(server):
    async def story() -> None:
        kept = keeper(("sql", SQL), ("old", b""))
        assert kept.due.is_set()
        assert await kept.look_after(client(server), [])
        assert server.adapters == {"sql": "/sql"}
        assert not kept.due.is_set()
        assert not await kept.look_after(client(server), ["sql"])
        assert server.seen == ["POST /v1/load_lora_adapter"]

    asyncio.run(story())


def test_one_that_joins_also_loses_what_was_unloaded_while_it_was_away(server):
    async def story() -> None:
        server.adapters = {"old": "/old", "own": "/own"}
        assert await keeper(("old", b""), ("sql", SQL)).join(client(server), ["old", "own"])
        assert server.adapters == {"own": "/own", "sql": "/sql"}
        assert not await keeper().join(client(server), ["own"])

    asyncio.run(story())


def test_what_a_server_does_not_load_is_said_once_and_tried_again(server, caplog):
    async def story() -> None:
        server.refuses = 500
        kept = keeper(("sql", SQL))
        assert not await kept.look_after(client(server), [])
        assert not await kept.look_after(client(server), [])
        assert [record.getMessage() for record in caplog.records] == ["i does not load the adapter sql: HTTP 500"]
        server.refuses = 0
        assert await kept.look_after(client(server), [])

    asyncio.run(story())


def test_fleet_is_told_the_version_and_all_of_it_where_it_asks():
    kept = keeper(("sql", SQL))
    assert kept.told() == WantedAdapters(7)
    kept.hear(ReportAnswer(asks_adapters=True))
    assert kept.told() == WantedAdapters(7, loads=(("sql", SQL),))
    kept.hear(ReportAnswer())
    assert kept.told() == WantedAdapters(7)
