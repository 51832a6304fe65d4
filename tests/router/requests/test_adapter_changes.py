"""Adapters are loaded on every instance or on none: through a gateway with a board of its own in place of Fleet's."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
import yaml

from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import hash_key
from dualmap.router.requests import adapter_change, adapter_changes
from dualmap.scheduler.fleet import wanted_adapters
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.wanted_adapters import AdapterBoard, WantedAdapters
from tests.router.conftest import Conversation, Fleet, post

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SQL = {"lora_name": "sql", "lora_path": "/adapters/sql"}
BASE = {"id": "tiny"}


class Wishes:
    """Fleet's part, in this process."""

    def __init__(self) -> None:
        self.board = AdapterBoard(1)

    async def begin_adapters(self, pool: str, holder: str) -> WantedAdapters | None:
        return self.board.begin(pool, holder, time.monotonic())

    async def want_adapter(self, pool: str, name: str, load: bytes) -> bool:
        return self.board.want(pool, name, load)

    async def end_adapters(self, pool: str, holder: str) -> bool:
        self.board.end(pool, holder)
        return True

    def wanted(self, pool: str = "") -> dict[str, bytes]:
        news = self.board.news(pool, 0)
        return dict(news.loads) if news else {}


class Server:
    """Takes adapters. fails: by path, the status of its answers; NO_ANSWER: it closes the connection."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.fails: dict[str, int] = {}

    async def __call__(self, conversation: Conversation) -> None:
        path = conversation.request.line.split(" ")[1]
        body = conversation.request.json
        name = body["lora_name"]
        if path in self.fails:
            if not self.fails[path]:
                conversation.reset()
            else:
                await conversation.send_json({"error": {"message": "it is full"}}, f"{self.fails[path]} X")
        elif path == UNLOAD:
            known = self.adapters.pop(name, None)
            await conversation.send_json("removed", "200 OK" if known else "404 Not Found")
        elif name in self.adapters and not body.get("load_inplace"):
            await conversation.send_json({"error": {"message": "it is there already"}}, "400 Bad Request")
        else:
            self.adapters[name] = body["lora_path"]
            await conversation.send_json("added")


@pytest.fixture
def servers() -> list[Server]:
    return [Server() for _ in range(3)]


@pytest.fixture
def loading(fleet, servers, monkeypatch):
    """Three instances behind a gateway that has a board; their lists of models are those of the servers, as soon as
    `shown` says so."""
    monkeypatch.setattr(adapter_changes, "SHOWN_S", 0.05)
    return lambda **about: fleet(*servers, cards=(BASE,), **about)


def wishes_of(f: Fleet) -> Wishes:
    if f.gateway.adapters.wishes is None:
        f.gateway.adapters.wishes = Wishes()
    return f.gateway.adapters.wishes


async def test_an_adapter_is_loaded_on_every_ready_instance_and_kept_for_those_that_join_later(loading, servers):
    async with loading() as f:
        wishes = wishes_of(f)
        client = await f.client()
        answer = await client.post(LOAD, SQL, "x-request-id: r-1\r\n")
        assert (answer.status, answer.json) == (200, "added")
        assert (answer.headers["x-request-id"], answer.headers["x-dualmap-instance"]) == ("r-1", "i0")
        assert [server.adapters for server in servers] == [{"sql": "/adapters/sql"}] * 3
        assert json.loads(wishes.wanted()["sql"]) == SQL
        answer = await client.post(UNLOAD, {"lora_name": "sql"})
        assert (answer.status, answer.json) == (200, "removed")
        assert [server.adapters for server in servers] == [{}] * 3
        assert wishes.wanted() == {"sql": b""}


async def test_an_adapter_is_loaded_once_for_all_ranks_of_a_server(loading, servers):
    async with loading() as f:
        wishes_of(f)
        members = [f.member(i, model_cards=(BASE,)) for i in (0, 0, 1)]
        ranks = [replace(member, endpoint=replace(member.endpoint, rank=n)) for n, member in enumerate(members)]
        f.apply(*(replace(member, instance_id=f"r{n}") for n, member in enumerate(ranks)))
        client = await f.client()
        assert (await client.post(LOAD, SQL)).status == 200
        assert [len(instance.received) for instance in f.instances] == [1, 1, 0]
        assert (await client.post(UNLOAD, {"lora_name": "sql"})).status == 200


async def test_a_client_that_half_closes_is_answered(loading, servers):
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        await client.send(post(LOAD, SQL))
        client.writer.write_eof()
        answer = await client.answer()
        assert (answer.status, answer.json) == (200, "added")
        assert await client.at_end()


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_where_one_refuses_the_others_are_put_back_and_its_words_reach_the_client(loading, servers, place):
    servers[place].fails[LOAD] = 500
    async with loading() as f:
        wishes = wishes_of(f)
        client = await f.client()
        answer = await client.post(LOAD, SQL)
        assert (answer.status, answer.json) == (500, {"error": {"message": "it is full"}})
        assert answer.headers["x-dualmap-instance"] == f"i{place}"
        assert [server.adapters for server in servers] == [{}] * 3
        assert wishes.wanted() == {}


async def test_where_one_does_not_answer_nothing_is_loaded_anywhere(loading, servers):
    servers[1].fails[LOAD] = 0
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        answer = await client.post(LOAD, SQL)
        assert answer.status == 502
        assert answer.error["message"].startswith("i1 did not answer")
        assert [server.adapters for server in servers] == [{}] * 3
        assert UNLOAD in f.instances[1].received[-1].line  # it may have loaded it nevertheless


async def test_a_silent_instance_is_waited_for_so_long_only(loading, servers, monkeypatch):
    monkeypatch.setattr(adapter_change, "ASK_S", 0.05)
    silent = asyncio.Event()

    async def answer_never(conversation: Conversation) -> None:
        await silent.wait()

    async with loading() as f:
        wishes_of(f)
        f.instances[2].script = answer_never
        client = await f.client()
        answer = await client.post(LOAD, SQL)
        assert answer.status == 502
        assert [server.adapters for server in servers[:2]] == [{}] * 2
        silent.set()


async def test_what_was_loaded_before_is_loaded_again_where_a_change_in_place_fails(loading, servers):
    async with loading() as f:
        wishes = wishes_of(f)
        client = await f.client()
        await client.post(LOAD, SQL)
        servers[2].fails[LOAD] = 400
        other = SQL | {"lora_path": "/adapters/other", "load_inplace": True}
        assert (await client.post(LOAD, other)).status == 400
        assert [server.adapters for server in servers] == [{"sql": "/adapters/sql"}] * 3
        assert json.loads(wishes.wanted()["sql"]) == SQL


async def test_an_unload_that_one_refuses_is_taken_back(loading, servers):
    async with loading() as f:
        wishes = wishes_of(f)
        client = await f.client()
        await client.post(LOAD, SQL)
        servers[0].fails[UNLOAD] = 500
        assert (await client.post(UNLOAD, {"lora_name": "sql"})).status == 500
        assert [server.adapters for server in servers] == [{"sql": "/adapters/sql"}] * 3
        assert json.loads(wishes.wanted()["sql"]) == SQL


async def test_what_only_some_have_is_unloaded_there_and_what_nobody_has_is_a_404(loading, servers):
    async with loading() as f:
        wishes_of(f)
        servers[1].adapters["own"] = "/own"
        client = await f.client()
        assert (await client.post(UNLOAD, {"lora_name": "own"})).status == 200
        assert servers[1].adapters == {}
        assert (await client.post(UNLOAD, {"lora_name": "own"})).status == 404


async def test_an_unload_that_cannot_be_taken_back_says_where_it_was_made(loading, servers):
    for server in servers:
        server.adapters["own"] = "/own"
    servers[2].fails[UNLOAD] = 500
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        answer = await client.post(UNLOAD, {"lora_name": "own"})
        assert answer.status == 502
        assert "i2 did not unload" in answer.error["message"]
        assert "unloaded on i0, i1" in answer.error["message"]


async def test_changes_are_made_one_after_the_other(loading, servers):
    async with loading() as f:
        wishes_of(f)
        clients = [await f.client() for _ in range(4)]
        answers = await asyncio.gather(*(client.post(LOAD, SQL) for client in clients))
        assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]
        assert [server.adapters for server in servers] == [{"sql": "/adapters/sql"}] * 3


async def test_a_change_is_made_to_its_end_though_its_client_leaves(loading, servers):
    waiting = asyncio.Event()
    goes_on = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        waiting.set()
        await goes_on.wait()
        await servers[0](conversation)

    async with loading() as f:
        wishes = wishes_of(f)
        f.instances[0].script = answer_late
        client = await f.client()
        await client.send(f"POST {LOAD} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(json.dumps(SQL))}\r\n\r\n".encode())
        await client.send(json.dumps(SQL).encode())
        await waiting.wait()
        client.leave_by_reset()
        await f.until(lambda: not f.gateway.service.clients)
        goes_on.set()
        await f.gateway.adapters.finish()
        assert list(wishes.wanted()) == ["sql"]
        assert servers[0].adapters == {"sql": "/adapters/sql"}


async def test_the_client_is_answered_once_every_instance_shows_it(loading, servers, monkeypatch):
    monkeypatch.setattr(adapter_changes, "SHOWN_S", 1000.0)
    async with loading() as f:
        wishes = wishes_of(f)
        client = await f.client()
        answer = asyncio.create_task(client.post(LOAD, SQL))
        await f.until(lambda: wishes.wanted())
        shown = {"model_cards": (BASE, {"id": "sql", "parent": "tiny"})}
        f.apply(f.member(0, **shown), f.member(1, model_cards=(BASE,)), f.member(2, **shown))
        await asyncio.sleep(0)
        assert not answer.done()
        f.apply(f.member(0, **shown), f.member(1, **shown), f.member(2, MemberState.LOST))
        assert (await answer).status == 200


async def test_with_several_pools_the_model_names_the_one_that_is_changed(loading, servers):
    async with loading(pools=("", "b")) as f:
        wishes = wishes_of(f)
        big = {"model_cards": ({"id": "big"},), "pool": "b"}
        f.apply(f.member(0, model_cards=(BASE,)), f.member(1, **big), f.member(2, MemberState.LOST, **big))
        client = await f.client()
        assert (await client.post(LOAD, SQL)).error["param"] == "model"
        assert (await client.post(LOAD, SQL | {"model": "none"})).status == 404
        assert (await client.post(LOAD, SQL | {"model": "big", "lora_name": "tiny"})).status == 409
        assert (await client.post(LOAD, SQL | {"model": "big"})).status == 200
        assert [len(server.adapters) for server in servers] == [0, 1, 0]
        assert (list(wishes.wanted("b")), wishes.wanted("")) == (["sql"], {})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (LOAD, b"[]", None),
        (LOAD, {"lora_path": "/sql"}, None),
        (LOAD, {"lora_name": "", "lora_path": "/sql"}, "lora_name"),
        (LOAD, {"lora_name": "sql"}, "lora_path"),
        (UNLOAD, {"lora_name": 7}, None),
        (LOAD, {"lora_name": "s" * 70_000, "lora_path": "/sql"}, None),
    ],
)
async def test_what_names_no_adapter_is_refused_before_anybody_is_asked(loading, path, body, param):
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        answer = await client.post(path, body)
        assert (answer.status, answer.error["param"]) == (400, param)
        assert not any(instance.received for instance in f.instances)


async def test_with_api_keys_only_one_that_says_so_may_change_adapters(loading, servers, tmp_path):
    path = tmp_path / "keys.yaml"
    keys = [{"sha256": hash_key(b"user"), "tenant": "a"}, {"sha256": hash_key(b"operator"), "admin": True}]
    path.write_text(yaml.safe_dump({"keys": keys}))
    async with loading(about={"access": Access(path, time.monotonic)}) as f:
        wishes_of(f)
        client = await f.client()
        for name in (LOAD, UNLOAD):
            answer = await client.post(name, SQL, "authorization: Bearer user\r\n")
            assert (answer.status, answer.error["type"]) == (403, "PermissionDeniedError")
            assert "admin: true" in answer.error["message"]
        assert not any(instance.received for instance in f.instances)
        assert (await client.post(LOAD, SQL, "authorization: Bearer operator\r\n")).status == 200
        assert not any("authorization" in i.received[-1].headers for i in f.instances)


async def test_a_key_of_the_gateways_that_a_server_refuses_is_not_the_clients_fault(loading, servers, tmp_path):
    (tmp_path / "key").write_text("of-vllm")
    servers[0].fails[LOAD] = 401
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        answered = await client.post(LOAD, SQL, "authorization: Bearer own\r\n")
        assert (answered.status, f.instances[0].received[-1].headers["authorization"]) == (401, "Bearer own")
        key_file = str(tmp_path / "key")
        f.apply(*(f.member(i, endpoint=replace(f.instances[i].endpoint, key_file=key_file)) for i in range(3)))
        answered = await client.post(LOAD, SQL, "authorization: Bearer own\r\n")
        assert answered.status == 502
        assert "does not take the gateway's key" in answered.error["message"]
        assert f.instances[0].received[-1].headers["authorization"] == "Bearer of-vllm"
        assert not any(server.adapters for server in servers)


async def test_what_fleet_does_not_keep_is_loaded_nowhere(loading, servers, monkeypatch):
    monkeypatch.setattr(wanted_adapters, "MAX_NAMES", 1)
    async with loading() as f:
        wishes_of(f)
        client = await f.client()
        assert (await client.post(LOAD, SQL)).status == 200
        assert (await client.post(LOAD, SQL | {"lora_name": "law"})).status == 503
        assert [server.adapters for server in servers] == [{"sql": "/adapters/sql"}] * 3


async def test_without_fleet_or_an_instance_nothing_is_changed(loading, servers, monkeypatch):
    async with loading() as f:
        client = await f.client()
        answer = await client.post(LOAD, SQL)
        assert (answer.status, "ask each of them" in answer.error["message"]) == (501, True)
        wishes = wishes_of(f)
        monkeypatch.setattr(adapter_changes, "TURN_S", 0.05)
        wishes.board.begin("", "another", time.monotonic())
        assert (await client.post(LOAD, SQL)).status == 503
        wishes.board.end("", "another")
        f.apply()
        assert (await client.post(LOAD, SQL)).status == 503
        assert not any(instance.received for instance in f.instances)
        assert wishes.board.begin("", "another", time.monotonic()) is not None


async def test_in_a_pool_of_different_models_adapters_are_the_servers_own_business(loading, servers):
    async with loading() as f:
        wishes_of(f)
        other = {"model_cards": ({"id": "big"},)}
        f.apply(f.member(0, model_cards=(BASE,)), f.member(1, **other), f.member(2, MemberState.LOST))
        client = await f.client()
        answer = await client.post(LOAD, SQL)
        assert (answer.status, "different models" in answer.error["message"]) == (409, True)
        assert [server.received for server in f.instances] == [[], [], []]
