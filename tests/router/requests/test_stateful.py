"""Requests that go on from what one instance keeps: responses and conversations through a gateway and its instances."""

import asyncio
import json
import time

import pytest
import yaml

from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import hash_key
from dualmap.router.requests import stateful
from dualmap.router.requests.state_homes import StateHomes
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.state_board import StateHome
from tests.router.conftest import CHAT, Conversation, Script

ASK = {"model": "tiny", "input": "hello"}
A, B, ANY = "dm-key-of-a", "dm-key-of-b", "dm-key-of-many"


def keeps(name: str) -> Script:
    """A server that keeps what it has answered in its memory: responses and conversations."""
    made: set[str] = set()

    async def answer(conversation: Conversation) -> None:
        request = conversation.request
        method, target, _ = request.line.split(" ")
        body = request.json if request.body else {}
        before = body.get("previous_response_id") or body.get("conversation")
        if isinstance(before, dict):
            before = before["id"]
        about_one = method != "POST" or target.count("/") > 2
        if about_one:
            before = target.split("/")[3].partition("?")[0]
        if before and before not in made:
            error = {"message": f"{name} has no {before}", "code": 404}
            await conversation.send_json({"error": error}, "404 Not Found")
        elif about_one:
            await conversation.send_json({"id": before, "object": "response"})
        else:
            state_id = f"{'conv' if target == '/v1/conversations' else 'resp'}_{name}_{len(made)}"
            made.add(state_id)
            if body.get("stream"):
                await conversation.begin_stream()
                await conversation.send_event(json.dumps({"response": {"id": state_id}, "type": "response.created"}))
                await conversation.send_event('{"type":"response.completed"}')
                await conversation.end_stream()
            else:
                await conversation.send_json({"id": state_id, "object": "response", "output": []})

    return answer


async def made_by(client, path: str = "/v1/responses", headers: str = "", **more) -> tuple[str, str]:
    """Id of what was made, and by which instance."""
    answer = await client.post(path, ASK | more, headers)
    assert answer.status == 200
    if more.get("stream"):
        event = answer.body.split(b"\n\n")[0].removeprefix(b"data: ")
        return json.loads(event)["response"]["id"], answer.headers["x-dualmap-instance"]
    return answer.json["id"], answer.headers["x-dualmap-instance"]


async def call(client, line: str, headers: str = ""):
    await client.send(f"{line} HTTP/1.1\r\nhost: x\r\n{headers}content-length: 0\r\n\r\n".encode())
    return await client.answer()


def asked(fleet) -> int:
    return sum(len(instance.received) for instance in fleet.instances)


def forget(fleet) -> None:
    """As a gateway that has just started."""
    fleet.gateway.driver.stateful.homes = StateHomes()


@pytest.fixture
def keyed(fleet, tmp_path):
    """Three instances behind a gateway that asks for keys: of two tenants, and of a proxy that names its own."""
    path = tmp_path / "keys.yaml"
    keys = [
        {"sha256": hash_key(A.encode()), "tenant": "a", "models": ["tiny"]},
        {"sha256": hash_key(B.encode()), "tenant": "b"},
        {"sha256": hash_key(ANY.encode())},
    ]
    path.write_text(yaml.safe_dump({"keys": keys}))
    about = {"access": Access(path, time.monotonic)}
    return lambda: fleet(*(keeps(str(i)) for i in range(3)), cards=({"id": "tiny"},), about=about)


def bearing(key: str, tenant: str = "") -> str:
    return f"authorization: Bearer {key}\r\n" + (f"x-dualmap-tenant: {tenant}\r\n" if tenant else "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_goes_to_the_instance_that_made_the_one_before(fleet, stream):
    async with fleet(*(keeps(str(i)) for i in range(3))) as f:
        client = await f.client()
        for n in range(8):
            before, instance = await made_by(client, input=f"question {n}", stream=stream)
            for _ in range(2):
                before, again = await made_by(client, input="go on", previous_response_id=before, stream=stream)
                assert again == instance
        assert asked(f) == 24
        f.check_books_are_empty()


@pytest.mark.parametrize("line", ["GET {}", "GET {}?stream=false", "DELETE {}", "POST {}/cancel", "GET {}/input_items"])
async def test_what_is_asked_of_a_response_is_asked_where_it_is(fleet, line):
    async with fleet(*(keeps(str(i)) for i in range(3))) as f:
        client = await f.client()
        for n in range(6):
            state_id, instance = await made_by(client, input=f"question {n}")
            answer = await call(client, line.format(f"/v1/responses/{state_id}"))
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)
        assert asked(f) == 12


@pytest.mark.parametrize("named", [lambda i: i, lambda i: {"id": i}])
async def test_a_conversation_stays_where_it_was_made(fleet, named):
    async with fleet(*(keeps(str(i)) for i in range(2))) as f:
        client = await f.client()
        state_id, instance = await made_by(client, "/v1/conversations")
        answer = await client.get(f"/v1/conversations/{state_id}/items")
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)
        answer = await client.post("/v1/responses", ASK | {"conversation": named(state_id)})
        assert answer.headers["x-dualmap-instance"] == instance


async def test_what_a_turn_goes_on_from_is_no_text_of_its_own(fleet):
    """What `usage` says of both together would make every text seem long."""

    async def answer(conversation: Conversation) -> None:
        usage = {"input_tokens": 100_000, "output_tokens": 1}
        about = {"object": "response", "status": "completed", "output": [{}]}
        await conversation.send_json({"id": "resp_1", **about, "usage": usage})

    async with fleet(answer) as f:
        client = await f.client()
        for _ in range(3):
            await client.post("/v1/responses", ASK | {"previous_response_id": "resp_1"})
        assert f.gateway.admission.ratio.prompt_tokens("tiny", 4000) == 1000


async def test_where_the_home_is_not_known_the_instances_are_asked_in_turn_and_it_is_remembered(fleet):
    async with fleet(*(keeps(str(i)) for i in range(6))) as f:
        client = await f.client()
        state_id, instance = await made_by(client)
        forget(f)
        again = await client.post("/v1/responses", ASK | {"previous_response_id": state_id})
        assert (again.status, again.headers["x-dualmap-instance"]) == (200, instance)
        before = asked(f)
        assert (await client.get(f"/v1/responses/{state_id}")).status == 200
        assert asked(f) == before + 1
        f.check_books_are_empty()


async def test_what_no_instance_has_is_told_in_the_words_of_the_last_one_asked(fleet):
    async with fleet(*(keeps(str(i)) for i in range(4))) as f:
        client = await f.client()
        answer = await client.get("/v1/responses/resp_never")
        last = answer.headers["x-dualmap-instance"].removeprefix("i")
        assert (answer.status, answer.json["error"]["message"]) == (404, f"{last} has no resp_never")
        assert [len(i.received) for i in f.instances] == [1, 1, 1, 1]
        f.check_books_are_empty()


async def test_a_response_is_looked_for_in_every_pool_where_none_is_named(fleet):
    async with fleet(*(keeps(str(i)) for i in range(3)), pools=("", "b", "c")) as f:
        models = ("tiny", "big", "other")
        f.apply(*(f.member(i, model_cards=({"id": models[i]},), pool=name) for i, name in enumerate(("", "b", "c"))))
        client = await f.client()
        state_id, instance = await made_by(client, model="big")
        assert instance == "i1"
        forget(f)
        for _ in range(2):
            answer = await client.get(f"/v1/responses/{state_id}")
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, "i1")
        assert [len(i.received) for i in f.instances] == [1, 3, 0]
        assert (await client.get("/v1/responses/resp_never")).headers["x-dualmap-instance"] == "i2"
        assert [len(i.received) for i in f.instances] == [2, 4, 1]
        assert not f.gateway.driver.exchanges


async def test_a_pool_without_a_ready_instance_does_not_end_the_search(fleet):
    async with fleet(keeps("0"), keeps("1"), pools=("", "b")) as f:
        f.apply(f.member(0, MemberState.LOST), f.member(1, pool="b"))
        client = await f.client()
        answer = await client.get("/v1/responses/resp_never")
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (404, "i1")


@pytest.mark.parametrize("members", [(), (MemberState.LOST,)])
async def test_what_is_lost_with_its_instance_is_a_404_that_says_so(fleet, members):
    async with fleet(keeps("0"), keeps("1")) as f:
        client = await f.client()
        state_id, instance = await made_by(client)
        lost = int(instance[1:])
        f.apply(f.member(1 - lost), *(f.member(lost, state) for state in members))
        said = f"Response with id '{state_id}' is lost: the instance that kept it, {instance}, is gone."
        for answer in (
            await client.get(f"/v1/responses/{state_id}"),
            await client.post("/v1/responses", ASK | {"previous_response_id": state_id}),
        ):
            assert (answer.status, answer.error["message"].startswith(said)) == (404, True)
        assert len(f.instances[1 - lost].received) == 0


async def test_an_instance_that_died_a_moment_ago_is_gone_with_what_it_kept(fleet):
    async with fleet(keeps("0"), keeps("1")) as f:
        client = await f.client()
        state_id, instance = await made_by(client)
        f.instances[int(instance[1:])].stop()
        answer = await client.post("/v1/responses", ASK | {"previous_response_id": state_id})
        assert (answer.status, "is lost" in answer.error["message"]) == (404, True)
        f.check_books_are_empty()


async def test_a_home_that_drains_serves_on(fleet):
    async with fleet(keeps("0"), keeps("1")) as f:
        client = await f.client()
        state_id, instance = await made_by(client)
        home = int(instance[1:])
        f.apply(f.member(home, MemberState.DRAINING), f.member(1 - home))
        answer = await client.post("/v1/responses", ASK | {"previous_response_id": state_id})
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)


async def test_only_a_response_that_is_kept_is_remembered(fleet):
    async with fleet(keeps("0")) as f:
        client = await f.client()
        await made_by(client, store=False)
        await client.post("/v1/chat/completions", CHAT)
        assert len(f.gateway.driver.stateful.homes) == 0
        await made_by(client, store=True)
        assert len(f.gateway.driver.stateful.homes) == 1


async def test_an_endless_id_is_refused(fleet):
    async with fleet(keeps("0")) as f:
        client = await f.client()
        answer = await client.post("/v1/responses", ASK | {"previous_response_id": "r" * 1000})
        assert (answer.status, asked(f)) == (400, 0)


# Whose it is.


async def test_what_one_tenant_made_is_not_there_for_another(keyed):
    async with keyed() as f:
        client = await f.client()
        state_id, instance = await made_by(client, headers=bearing(A))
        for key in (B, ANY):
            theirs = await client.get(f"/v1/responses/{state_id}", bearing(key))
            never = await client.get(f"/v1/responses/{state_id}x", bearing(key))
            assert (theirs.status, never.status) == (404, 404)
            assert theirs.error["message"] == never.error["message"].replace(f"{state_id}x", state_id)
            answer = await client.post("/v1/responses", ASK | {"previous_response_id": state_id}, bearing(key))
            assert answer.status == 404
        assert asked(f) == 1
        answer = await client.get(f"/v1/responses/{state_id}", bearing(A))
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)


async def test_a_key_for_many_tenants_tells_them_apart_by_their_header(keyed):
    async with keyed() as f:
        client = await f.client()
        state_id, _ = await made_by(client, headers=bearing(ANY, "one"))
        for tenant, status in (("one", 200), ("two", 404), ("a", 404), ("", 404)):
            assert (await client.get(f"/v1/responses/{state_id}", bearing(ANY, tenant))).status == status


# What other gateways know.


async def test_with_keys_news_of_other_gateways_is_waited_for(keyed):
    async with keyed() as f:
        client = await f.client()
        state_id, instance = await made_by(client, headers=bearing(A))
        (home,) = f.gateway.driver.stateful.homes.take_news()
        forget(f)
        found = f.gateway.driver.stateful
        found.others = True
        asks = asyncio.Event()
        found.ask = asks.set
        await client.send(f"GET /v1/responses/{state_id} HTTP/1.1\r\nhost: x\r\n{bearing(A)}\r\n".encode())
        await asks.wait()
        found.hear(())
        found.hear((home,))
        answer = await client.answer()
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)


@pytest.mark.parametrize(("heard", "status"), [(True, 404), (False, 503)])
async def test_with_keys_what_the_others_do_not_know_either_is_not_there(keyed, monkeypatch, heard, status):
    monkeypatch.setattr(stateful, "HOLD_S", 0.05)
    async with keyed() as f:
        found = f.gateway.driver.stateful
        found.others = True
        if heard:
            found.ask = lambda: asyncio.get_running_loop().call_later(0.001, found.hear, ())
        client = await f.client()
        assert (await client.get("/v1/responses/resp_never", bearing(A))).status == status
        assert not f.gateway.driver.exchanges


async def test_a_client_that_leaves_while_news_is_waited_for_is_forgotten(keyed):
    async with keyed() as f:
        found = f.gateway.driver.stateful
        found.others = True
        client = await f.client()
        await client.send(f"GET /v1/responses/resp_1 HTTP/1.1\r\nhost: x\r\n{bearing(A)}\r\n".encode())
        await f.until(lambda: f.gateway.driver.exchanges)
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        found.hear((StateHome("resp_1", "i0", ""),))
        await f.until(lambda: not found._held)
        assert asked(f) == 0


async def test_others_are_told_at_once_what_was_made_and_of_nothing_else(fleet):
    async with fleet(keeps("0")) as f:
        found = f.gateway.driver.stateful
        told = []
        found.ask = lambda: told.append(found.homes.take_news())
        client = await f.client()
        await made_by(client)
        assert told == []
        found.others = True
        state_id, _ = await made_by(client)
        assert told.pop()[-1].state_id == state_id
        await client.get(f"/v1/responses/{state_id}")
        assert told == []
