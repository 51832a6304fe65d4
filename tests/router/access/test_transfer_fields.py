"""Bodies that tell an instance where to fetch KV caches: not from clients who are kept apart, nor with any key."""

import json
from typing import Any

import pytest

from tests.router.access.conftest import ANY, A, B, bearing
from tests.router.conftest import CHAT

PULL = {"do_remote_prefill": True, "remote_host": "10.9.8.7", "remote_port": 1, "remote_block_ids": [[1]]}
IN_SAMPLING = {"token_ids": [1, 2], "sampling_params": {"max_tokens": 2, "extra_args": {"kv_transfer_params": PULL}}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 2},
    "/v1/responses": {"input": "hi"},
    "/inference/v1/generate": {"token_ids": [1, 2], "sampling_params": {}},
    "/v1/chat/completions/batch": {"messages": [CHAT["messages"]]},
    "/v1/whatever/comes": {},
}


def chat(more: str) -> bytes:
    return json.dumps(CHAT).encode()[:-1] + b"," + more.encode() + b"}"


TEXT = json.dumps(PULL)
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in "kv_transfer_params")
HIDDEN = {
    "escaped": f'"kv\\u005ftransfer\\u005fparams":{TEXT}',
    "escaped whole": f'"{ESCAPED}":{TEXT}',
    "escaped in capitals": f'"kv_\\u0074ransfer_p\\u0061r\\u0061\\u006Ds":{TEXT}',
    "said last": f'"kv_transfer_params":null,"kv_transfer_params":{TEXT}',
    "with what only Python reads": f'"x":NaN,"y":"\\ud800","kv_transfer_params":{TEXT}',
    "empty": '"kv_transfer_params":{}',
    "no number": '"kv_transfer_params":NaN',
    "in a body that the gateway does not understand": f'"max_tokens":{{}},"kv_transfer_params":{TEXT}',
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_key_may_not_say_from_where_an_instance_fetches(keyed, path):
    async with keyed() as f:
        client = await f.client()
        for field in ("kv_transfer_params", "ec_transfer_params"):
            answer = await client.post(path, BODIES[path] | {"model": "tiny", field: PULL}, bearing(B))
            assert answer.status == 400
            assert f"`{field}`" in answer.json["error"]["message"]
            assert answer.json.get("type") == ("error" if path == "/v1/messages" else None), "as the API's errors are"
        assert (await client.post(path, BODIES[path] | {"model": "tiny"}, bearing(B))).status == 200
        assert [b"transfer_params" in one.body for one in f.instances[0].received] == [False]
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/inference/v1/generate", IN_SAMPLING, "sampling_params.extra_args.kv_transfer_params"),
        ("/v1/completions", {"prompt": "a", "vllm_xargs": {"kv_transfer_params": 0}}, "vllm_xargs.kv_transfer_params"),
        ("/v1/completions", {"prompt": "a", "vllm_xargs": {"ec_transfer_params": []}}, "vllm_xargs.ec_transfer_params"),
    ],
)
async def test_the_arguments_of_engines_say_it_no_less(keyed, path, body, field):
    async with keyed() as f:
        answer = await (await f.client()).post(path, body | {"model": "tiny"}, bearing(A))
        assert (answer.status, answer.error["param"]) == (400, field)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=list(HIDDEN))
async def test_no_spelling_hides_the_field(keyed, hidden, coding):
    async with keyed() as f:
        body = (" " * 99).encode(coding.removesuffix("-sig")) if coding == "utf-32-be" else b""
        body += chat(hidden).decode().encode(coding)
        assert "kv_transfer_params" in json.loads(body)
        answer = await (await f.client()).post("/v1/chat/completions", body, bearing(A))
        assert (answer.status, answer.error["param"]) == (400, "kv_transfer_params")
        assert not f.instances[0].received


@pytest.mark.parametrize(
    "nested",
    ["[" * 100_000 + "]" * 100_000, "1" * 5000, '[NaN,"%s"]' % ("a" * (4 << 20))],
    ids=["deep", "long", "large"],
)
async def test_nor_does_what_is_hard_to_read(keyed, nested):
    async with keyed() as f:
        body = chat(f'"x":{nested},"kv_transfer_params":{TEXT}')
        answer = await (await f.client()).post("/v1/chat/completions", body, bearing(A))
        assert (answer.status, answer.error["param"]) == (400, "kv_transfer_params")
        assert not f.instances[0].received


@pytest.mark.parametrize(
    "more",
    [
        '"kv_transfer_params":null',
        '"kv_transfer_params":{"a":1},"kv_transfer_params":null',
        '"user":"kv_transfer_params"',
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"kv_transfer_params":{}}}}}]',
        '"user":"\\u005f\\ud83d","temperature":NaN',
        '"vllm_xargs":{"session":"transfer_params"}',
    ],
)
async def test_who_only_speaks_of_the_field_is_served(keyed, more):
    async with keyed() as f:
        assert (await (await f.client()).post("/v1/chat/completions", chat(more), bearing(A))).status == 200


async def test_what_is_no_json_is_refused_by_the_instance(keyed):
    async with keyed() as f:
        body = b'{"kv_transfer_params": {"a'
        assert (await (await f.client()).post("/v1/chat/completions", body, bearing(A))).status == 200
        assert f.instances[0].received[0].body == body


SOUND = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nsound\r\n'
FIELD = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
EVIL = FIELD % (b"vllm_xargs", b'{"kv_transfer_params":0}')
# In each, Starlette finds the field where a reader of parts may find none, or another one.
HIDDEN_IN_FORMS = {
    "plain": EVIL,
    "escaped": FIELD % (b"vllm_xargs", b'{"kv\\u005ftransfer_params":0}'),
    "before one in another's text": EVIL + FIELD % (b"z", FIELD % (b"vllm_xargs", b"{}")),
    "behind a long head": EVIL.replace(b"--b\r\n", b"--b\r\nx-a: %b\r\nx-b: %b\r\n" % (b"a" * 3000, b"b" * 3000)),
    "with a quote left open": EVIL.replace(b'"vllm_xargs"', b'vllm_xargs"'),
    "with an extended name": EVIL.replace(b'name="vllm_xargs"', b"name*=utf-8''vllm%5Fxargs"),
    "as what only Python reads": FIELD % (b"vllm_xargs", b'{"kv_transfer_params":0,"x":NaN,"y":"\xff"}'),
}


@pytest.mark.parametrize("hidden", HIDDEN_IN_FORMS.values(), ids=list(HIDDEN_IN_FORMS))
async def test_no_form_hides_the_field(keyed, hidden):
    async with keyed() as f:
        lines = "content-type: multipart/form-data; boundary=b\r\n" + bearing(A)
        answer = await (await f.client()).post("/v1/audio/transcriptions", SOUND + hidden + b"--b--\r\n", lines)
        assert (answer.status, answer.error["param"]) == (400, "vllm_xargs.kv_transfer_params")
        assert not f.instances[0].received


@pytest.mark.parametrize(
    ("charset", "status"),
    [
        ("", 200),
        ("; charset=UTF-8", 200),
        ('; charset="utf-8"; x=1', 200),
        ("; charset=utf-16", 400),
        ("; charset*=utf-16", 400),
        ('; x=a"; charset=utf-7; y="; charset=utf-8', 400),
    ],
)
async def test_a_forms_texts_are_in_utf_8(keyed, charset, status):
    async with keyed() as f:
        lines = f"content-type: multipart/form-data; boundary=b{charset}\r\n" + bearing(A)
        body = SOUND + FIELD % (b"vllm_xargs", b'{"x":1}') + b"--b--\r\n"
        answer = await (await f.client()).post("/v1/audio/transcriptions", body, lines)
        assert answer.status == status
        assert status == 200 or answer.error["param"] == "content-type"


@pytest.mark.parametrize(("inner", "outer"), [("utf-16-le", "utf-8-sig"), ("utf-16-le", "utf-16-be")])
async def test_what_is_encoded_twice_stays_as_it_came(keyed, inner, outer):
    """The instance refuses it; decoded once, it would be what the instance reads."""
    async with keyed() as f:
        once = chat('"kv_transfer_params":{"a":1}').decode().encode(inner)
        body = b"\xef\xbb\xbf" + once if outer == "utf-8-sig" else once.decode("latin-1").encode(outer)
        answer = await (await f.client()).post("/v1/chat/completions", body, bearing(A))
        assert (answer.status, f.instances[0].received[0].body) == (200, body)
        with pytest.raises(ValueError):  # noqa: PT011
            json.loads(body)


async def test_a_key_of_those_who_see_to_the_legs_themselves_may_send_it(keyed):
    async with keyed(kv_transfer=True) as f:
        client = await f.client()
        for key, status in ((B, 200), (A, 400), (ANY, 400)):
            answer = await client.post("/v1/chat/completions", CHAT | {"kv_transfer_params": PULL}, bearing(key))
            assert answer.status == status
        assert [one.json["kv_transfer_params"] for one in f.instances[0].received] == [PULL]


@pytest.mark.parametrize(("isolate", "status"), [(True, 400), (False, 200)])
async def test_without_keys_it_depends_on_whether_tenants_are_kept_apart(fleet, isolate, status):
    async with fleet(about={"isolate_tenants": isolate}) as f:
        answer = await (await f.client()).post("/v1/chat/completions", CHAT | {"kv_transfer_params": PULL})
        assert answer.status == status
