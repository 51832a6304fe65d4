"""Keys that instances want: the gateway's, in place of a client's, with and without keys of clients. instance_key.py,
instance_head.py."""

from pathlib import Path

import pytest

from dualmap.router.http import instance_key
from dualmap.router.http.instance_key import authorization_line
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.access.conftest import A, bearing
from tests.router.conftest import CHAT, STREAM, Conversation, Instance, answer_hello

CLIENTS_KEYS = "authorization: Bearer sk-client\r\nx-api-key: sk-client\r\napi-key: sk-client\r\n"
NOT_OURS = "The instance does not take the gateway's key. Clients cannot mend this; its operator can."


def wants(key: str):
    async def script(conversation: Conversation) -> None:
        if conversation.request.headers.get("authorization") == f"Bearer {key}":
            await answer_hello(conversation)
        else:
            await conversation.send_json({"error": "Unauthorized"}, "401 Unauthorized")

    return script


def shown(directory: Path, key: str, script=answer_hello) -> Instance:
    """An instance that is shown the key."""
    path = directory / f"{key}.key"
    path.write_text(f"{key}\n")
    return Instance(script, Endpoint("127.0.0.1", key_file=str(path)))


async def test_without_keys_of_clients_an_instance_gets_its_own_in_place_of_theirs(fleet, tmp_path):
    async with fleet(shown(tmp_path, "of-vllm", wants("of-vllm"))) as f:
        client = await f.client()
        for headers in (CLIENTS_KEYS, ""):
            assert (await client.post("/v1/chat/completions", CHAT, headers)).status == 200
        for received in f.instances[0].received:
            assert received.headers["authorization"] == "Bearer of-vllm"
            assert "sk-client" not in str(received.headers)


async def test_each_instance_gets_its_own_key_and_one_without_the_clients(fleet, tmp_path):
    instances = shown(tmp_path, "one"), shown(tmp_path, "other"), answer_hello
    async with fleet(*instances) as f:
        client = await f.client()
        number = 0
        while not all(instance.received for instance in f.instances):
            number += 1
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body, CLIENTS_KEYS)).status == 200
        told = [{received.headers["authorization"] for received in i.received} for i in f.instances]
        assert told == [{"Bearer one"}, {"Bearer other"}, {"Bearer sk-client"}]


async def test_a_key_that_changes_is_shown_from_then_on(fleet, tmp_path):
    instance = shown(tmp_path, "old")
    async with fleet(instance) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT)
        (tmp_path / "next").write_text("new")
        (tmp_path / "next").replace(tmp_path / "old.key")
        await f.until(lambda: b"Bearer new" in f.gateway.connections.to("i0").head.after_target)
        (tmp_path / "old.key").unlink()
        await client.post("/v1/chat/completions", CHAT)
        assert [r.headers["authorization"] for r in instance.received] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_key_that_an_instance_refuses_is_not_told_as_the_clients_fault(fleet, tmp_path, caplog, body):
    async with fleet(shown(tmp_path, "wrong", wants("right"))) as f:
        answered = await (await f.client()).post("/v1/chat/completions", body, CLIENTS_KEYS)
        assert (answered.status, answered.error["message"]) == (502, NOT_OURS)
        assert "www-authenticate" not in answered.headers
        assert f.gateway.metrics.failures["unauthorized"] > 0
        assert len([m for m in caplog.messages if m.startswith("i0: it does not take the gateway's key")]) == 1
        assert "wrong" not in caplog.text.replace("wrong.key", "")
        f.check_books_are_empty()


async def test_where_one_refuses_the_key_another_answers(fleet, tmp_path):
    async with fleet(shown(tmp_path, "wrong", wants("right")), shown(tmp_path, "right", wants("right"))) as f:
        client = await f.client()
        for number in range(6):
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body)).status == 200
        assert len(f.instances[0].received) == 1  # which is left alone for a while then


async def test_with_keys_of_clients_an_instance_that_wants_one_is_not_their_fault(keyed):
    async with keyed(wants("right")) as f:
        answered = await (await f.client()).post("/v1/chat/completions", CHAT, bearing(A))
        assert (answered.status, answered.error["message"]) == (502, NOT_OURS)


async def test_a_clients_own_key_that_an_instance_refuses_is_its_own_fault(fleet):
    async with fleet(wants("right")) as f:
        client = await f.client()
        answered = await client.post("/v1/chat/completions", CHAT, bearing("wrong"))
        assert (answered.status, answered.json) == (401, {"error": "Unauthorized"})
        assert (await client.post("/v1/chat/completions", CHAT, bearing("right"))).status == 200


async def test_a_key_that_cannot_be_read_any_more_stays(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(instance_key, "LOOK_INTERVAL_S", 0.0)
    path = tmp_path / "key"
    endpoint = Endpoint("h", 1, key_file=str(path))
    path.write_text("first")
    assert authorization_line(endpoint) == b"authorization: Bearer first\r\n"
    for content in ("", "two words", "line\r\nx-other: 1", "schl\u00fcssel"):
        path.write_text(content)
        assert authorization_line(endpoint) == b"authorization: Bearer first\r\n"
        assert authorization_line(endpoint) == b"authorization: Bearer first\r\n"
    path.unlink()
    assert authorization_line(endpoint) == b"authorization: Bearer first\r\n"
    assert len(caplog.messages) == 5
    assert all(message.startswith("the key for instances stays as it is: ") for message in caplog.messages)
    assert not any(word in caplog.text for word in ("first", "two words", "x-other", "schl"))
