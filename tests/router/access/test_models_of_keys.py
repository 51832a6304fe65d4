"""API keys that may use some models only."""

import time

import pytest

from dualmap.router.access.access import Access
from tests.router.access.conftest import CARDS, A, B, bearing, write_keys
from tests.router.conftest import CHAT


async def test_models_that_a_key_may_not_use_are_not_there(keyed):
    async with keyed(models=["tiny"]) as f:
        client = await f.client()
        for key, seen in ((A, ["secret-model", "tiny"]), (B, ["tiny"])):
            models = (await client.get("/v1/models", bearing(key))).json["data"]
            assert [model["id"] for model in models] == seen
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            answer = await client.post(path, {**CHAT, "model": "secret-model"}, bearing(B))
            assert (answer.status, answer.error["message"]) == (404, "The model `secret-model` does not exist.")
        assert (await client.post("/v1/chat/completions", CHAT, bearing(B))).status == 200
        f.check_books_are_empty()


@pytest.mark.parametrize(
    "value",
    [b"[" * 100_000 + b"]" * 100_000, b"1" * 5000, b'[NaN,"%b"]' % (b"a" * (4 << 20))],
    ids=["deep", "long", "large"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_key_of_one_model_hides_no_other_in_what_another_python_might_read(keyed, path, value):
    async with keyed(models=["tiny"]) as f:
        client = await f.client()
        body = b'{"x":%b,"model":"secret-model"}' % value
        assert (await client.post(path, body, bearing(A))).status == 200
        answer = await client.post(path, body, bearing(B))
        assert (answer.status, answer.error["param"]) in ((400, "model"), (404, "model"))
        assert (await client.post(path, b'{"model', bearing(B))).status == 200  # the instance says what is wrong


@pytest.mark.parametrize(("charset", "name"), [("utf-7", b"+AG0-odel"), ("utf-16-le", "model".encode("utf-16-le"))])
async def test_a_key_of_one_model_hides_no_other_in_a_forms_charset(keyed, charset, name):
    field = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    body = field % (b"model", b"tiny") + field % (name, "secret-model".encode(charset)) + b"--b--\r\n"
    async with keyed(models=["tiny"], kv_transfer=True) as f:
        client = await f.client()
        for said, status in ((charset, 400), ("UTF-8", 200)):
            lines = f"content-type: multipart/form-data; boundary=b; charset={said}\r\n"
            answer = await client.post("/v1/audio/transcriptions", body, lines + bearing(B))
            assert answer.status == status
        assert len(f.instances[0].received) == 1


FIELD = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
GOOD, EVIL = FIELD % (b"model", b"tiny"), FIELD % (b"model", b"secret-model")
LONG = b"--b\r\nx-a: %b\r\nx-b: %b\r\n" % (b"a" * 3000, b"b" * 3000)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        (GOOD, 200),
        (GOOD.replace(b'"model"', b"model"), 200),
        (GOOD + FIELD % (b"prompt", b"which model = this"), 200),
        (EVIL + FIELD % (b"z", GOOD), 400),
        (EVIL + b"--b--\r\n" + GOOD, 400),
        (GOOD + EVIL.replace(b"--b\r\n", LONG), 400),
        (GOOD + EVIL.replace(b'name="model"', b"name*=utf-8''mod%65l"), 400),
        (GOOD + EVIL.replace(b'name="model"', b'name=\xa0"model"'), 400),
        (EVIL.replace(b'name="model"', b"NAME*0=mo; NAME*1=del"), 400),
        (GOOD + EVIL.replace(b"content-d", b"x: a\ncontent-d"), 400),
    ],
)
async def test_a_key_of_one_model_hides_no_other_in_a_form(keyed, form, status):
    async with keyed(models=["tiny"], kv_transfer=True) as f:
        lines = "content-type: multipart/form-data; boundary=b\r\n" + bearing(B)
        answer = await (await f.client()).post("/v1/audio/transcriptions", form + b"--b--\r\n", lines)
        assert answer.status == status
        assert len(f.instances[0].received) == (status == 200)


async def test_a_key_of_one_model_that_names_none_waits_until_it_is_known_which_that_is(keyed):
    async with keyed(models=["tiny"]) as f:
        client = await f.client()
        nameless = {"messages": CHAT["messages"]}
        for members, status in (
            ((), 503),
            ((f.member(0, model_cards=CARDS[1:]),), 404),
            ((f.member(0, model_cards=CARDS[:1]),), 200),
        ):
            f.apply(*members)
            assert (await client.post("/v1/chat/completions", nameless, bearing(B))).status == status
        f.check_books_are_empty()


async def test_a_key_of_one_model_names_it_where_there_are_several_pools(fleet, tmp_path):
    path = write_keys(tmp_path / "keys.yaml", models=["tiny"])
    async with fleet(pools=("", "b"), cards=CARDS[:1], about={"access": Access(path, time.monotonic)}) as f:
        f.apply(f.member(0, model_cards=CARDS[:1]), f.member(0, pool="b", model_cards=CARDS[1:], instance_id="i1"))
        client = await f.client()
        for path in ("/v1/embeddings", "/v1/chat/completions"):
            answer = await client.post(path, {"input": "hi", "messages": CHAT["messages"]}, bearing(B))
            assert (answer.status, answer.error["param"]) == (400, "model")
