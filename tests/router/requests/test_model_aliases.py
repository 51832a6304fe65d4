"""`model_aliases`: names of clients' for models that instances call otherwise."""

import json
import time
from urllib.parse import parse_qs

import pytest

from dualmap.router.access.access import Access
from dualmap.router.apis.rename_model import rename_model
from dualmap.router.http.http_request import HttpRequest
from tests.router.access.conftest import A, B, bearing, write_keys
from tests.router.conftest import CHAT, post

CHAT_PATH = "/v1/chat/completions"
CARDS = ({"id": "qwen", "object": "model", "root": "/models/qwen", "max_model_len": 8000}, {"id": "other"})
ALIASES = {"gpt-4o": "qwen", "gone": "nothing"}


def ask(model: str) -> dict:
    return {**CHAT, "model": model}


@pytest.fixture
def aliased(fleet):
    """i0 serves qwen, i1 serves another model."""

    async def begin(f) -> None:
        f.gateway.admission.set_aliases(ALIASES)
        f.apply(f.member(0, model_cards=CARDS[:1]), f.member(1, model_cards=CARDS[1:]))

    return begin


async def answers(conversation) -> None:
    await conversation.send_json({"model": conversation.request.json["model"], "choices": [{"text": "hello"}]})


async def test_a_request_for_an_alias_goes_where_its_model_is_under_the_models_name(fleet, aliased):
    async with fleet(answers, answers) as f:
        await aliased(f)
        client = await f.client()
        for n in range(6):
            body = b'{ "messages":[{"role":"user","content":"\\"model\\": \\"gpt-4o\\" %d"}],\n"model" : "gpt-4o"}' % n
            answer = await client.post(CHAT_PATH, body)
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, "i0")
            assert answer.json["model"] == "qwen"
            assert f.instances[0].received[-1].body == body.replace(b': "gpt-4o"}', b': "qwen"}')
        f.check_books_are_empty()


async def test_an_alias_has_the_prompts_of_its_model(fleet, aliased):
    async with fleet(answers, answers) as f:
        await aliased(f)
        client = await f.client()
        for model in ("gpt-4o", "qwen"):
            assert (await client.post(CHAT_PATH, ask(model))).status == 200
        assert len({decision.attempt.request.blocks for decision in f.gateway.noted.decisions.latest()}) == 1
        assert {decision.model for decision in f.gateway.noted.decisions.latest()} == {"qwen"}


async def test_an_alias_is_listed_with_the_model_that_it_stands_for(fleet, aliased):
    async with fleet(answers, answers) as f:
        await aliased(f)
        client = await f.client()
        cards = {card["id"]: card for card in (await client.get("/v1/models")).json["data"]}
        assert list(cards) == ["gpt-4o", "other", "qwen"]
        assert cards["gpt-4o"] == CARDS[0] | {"id": "gpt-4o", "root": "qwen"}
        assert (await client.get("/v1/models/gpt-4o")).json == cards["gpt-4o"]
        assert (await client.get("/v1/models/gone")).status == 404
        answer = await client.post(CHAT_PATH, ask("gone"))
        assert (answer.status, answer.error["message"]) == (404, "The model `gone` does not exist.")


async def test_aliases_can_change_while_the_gateway_runs(fleet, aliased):
    async with fleet(answers, answers) as f:
        await aliased(f)
        client = await f.client()
        f.gateway.admission.set_aliases({"new": "qwen"})
        assert (await client.post(CHAT_PATH, ask("new"))).status == 200
        assert (await client.post(CHAT_PATH, ask("gpt-4o"))).status == 404


@pytest.mark.parametrize(
    ("may_use", "alias", "model"), [(["gpt-4o"], 200, 404), (["qwen"], 200, 200), (["other"], 404, 404)]
)
async def test_a_key_for_an_alias_is_for_that_name_and_one_for_a_model_for_all_its_names(
    fleet, aliased, tmp_path, may_use, alias, model
):
    path = write_keys(tmp_path / "keys.yaml", models=may_use)
    async with fleet(answers, answers, about={"access": Access(path, time.monotonic)}) as f:
        await aliased(f)
        client = await f.client()
        for name, status in (("gpt-4o", alias), ("qwen", model)):
            assert (await client.post(CHAT_PATH, ask(name), bearing(B))).status == status
            assert (await client.get(f"/v1/models/{name}", bearing(B))).status == status
            assert (await client.post(CHAT_PATH, ask(name), bearing(A))).status == 200
        refused = await client.post(CHAT_PATH, ask("gone"), bearing(B))
        assert refused.error["message"] == "The model `gone` does not exist."


def renamed(body: bytes, content_type: str = "application/json") -> bytes:
    http = HttpRequest(0.0)
    http.forwarded = [b"content-type: %b\r\n" % content_type.encode()]
    return rename_model(http, body, "qwen")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"gpt-4o","n":1}', b'{"model":"qwen","n":1}'),
        (b' {"n": 1,\n  "model"\t:\t"gpt\\u002d4o" }\n', b' {"n": 1,\n  "model"\t:\t"qwen" }\n'),
        (b'{"a":{"model":"gpt-4o"},"model":"gpt-4o"}', b'{"a":{"model":"gpt-4o"},"model":"qwen"}'),
        (b'{"model":"gpt-4o","a":{"model":"gpt-4o"}}', b'{"model":"qwen","a":{"model":"gpt-4o"}}'),
        (b'{"model":"first","model":"gpt-4o"}', b'{"model":"first","model":"qwen"}'),
        (b'{"m\\u006fdel":"gpt-4o"}', b'{"m\\u006fdel":"gpt-4o","model":"qwen"}'),
        (b'{"x":NaN,"model":"gpt-4o"}', b'{"x":NaN,"model":"qwen"}'),
        (
            b'{"x":[%b],"model":"gpt-4o"}' % b",".join([b'{"model":"gpt-4o"}'] * 20),
            b'{"x":[%b],"model":"gpt-4o","model":"qwen"}' % b",".join([b'{"model":"gpt-4o"}'] * 20),
        ),
    ],
)
def test_of_a_json_body_the_fields_value_alone_is_another(body, expected):
    assert renamed(body) == expected
    assert json.loads(renamed(body))["model"] == "qwen"


def test_of_a_form_the_last_field_is_another():
    part = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    parts = [part % (b"model", b"first"), part % (b"file", b"model"), part % (b"model", b"gpt-4o")]
    expected = b"".join([*parts[:2], part % (b"model", b"qwen"), b"--x--\r\n"])
    assert renamed(b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x") == expected


def test_of_pairs_the_last_one_is_another():
    body = renamed(b"model=first&x=a%20b&mo%64el=gpt-4o&y=", "application/x-www-form-urlencoded")
    assert body == b"model=first&x=a%20b&model=qwen&y="
    assert parse_qs(body)[b"model"][-1] == b"qwen"


def test_pairs_are_read_whatever_bytes_stand_in_them():
    assert renamed(b"\xf3=\xf3&model=gpt-4o", "application/x-www-form-urlencoded") == b"\xf3=\xf3&model=qwen"


async def test_a_form_for_an_alias_reaches_its_model(fleet, aliased):
    async with fleet(answers, answers) as f:
        await aliased(f)
        f.instances[0].script = _answers_form
        client = await f.client()
        part = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n%b\r\n--x--\r\n'
        request = post(
            "/v1/audio/transcriptions", part % b"gpt-4o", "content-type: multipart/form-data; boundary=x\r\n"
        )
        await client.send(request)
        assert (await client.answer()).status == 200
        assert f.instances[0].received[-1].body == part % b"qwen"


async def _answers_form(conversation) -> None:
    await conversation.send_json({"text": "hello"})
