"""API keys: who is served, as which tenant, with which models, how often; and what nobody may see."""

import json
import time

import pytest
import yaml

from dualmap.router.access.api_keys import ApiKeysError, find_key, hash_key, load_api_keys
from dualmap.router.cli.main import main
from dualmap.router.config.load import ConfigFileError, load_config
from tests.router.access.conftest import ANY, A, B, bearing
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello, post


@pytest.mark.parametrize(
    "headers", ["", "authorization: Bearer dm-other\r\n", f"authorization: Basic {A}\r\n", "authorization: Bearer\r\n"]
)
async def test_without_a_known_key_nothing_is_served_and_no_body_is_read(keyed, headers):
    async with keyed() as f:
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            client = await f.client()
            answer = await client.post(path, CHAT, headers)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.error["type"] == "AuthenticationError"
        client = await f.client()
        assert (await client.get("/v1/models", headers)).status == 401
        assert not f.instances[0].received


async def test_health_needs_no_key(keyed):
    async with keyed() as f:
        client = await f.client()
        assert [(await client.get(path)).status for path in ("/health", "/ready")] == [200, 200]


async def test_a_key_names_its_tenant_and_no_header_another(keyed):
    tenants = []

    async def note(conversation: Conversation) -> None:
        tenants.extend(attempt.request.tenant for attempt in f.gateway.scheduler.attempts.values())
        await answer_hello(conversation)

    async with keyed(note) as f:
        client = await f.client()
        for key in (A, ANY):
            await client.post("/v1/chat/completions", CHAT, bearing(key) + "x-dualmap-tenant: c\r\n")
    assert tenants == ["a", "c"]


SPELLINGS = {
    "as OpenAI's": f"Authorization: Bearer {A}\r\n",
    "in lower case": f"authorization: bearer {A}\r\n",
    "in upper case": f"AUTHORIZATION: BEARER {A}\r\n",
    "with spaces": f"authorization: Bearer   {A}  \r\n",
    "as Anthropic's": f"X-Api-Key: {A}\r\n",
    "as Azure's": f"api-key: {A}\r\n",
    "beside another": f"authorization: Bearer dm-other\r\nx-api-key: {A}\r\n",
    "beside a password": f"authorization: Basic dTpw\r\nx-api-key: none\r\napi-key: {A}\r\n",
    "twice": f"x-api-key: {A}\r\napi-key: {A}\r\nauthorization: Bearer {A}\r\n",
}


@pytest.mark.parametrize(("instance_key", "passed_on"), [(None, None), ("for-vllm", "Bearer for-vllm")])
@pytest.mark.parametrize("headers", SPELLINGS.values(), ids=list(SPELLINGS))
async def test_a_key_counts_however_it_comes_and_no_instance_gets_it(keyed, instance_key, passed_on, headers):
    async with keyed(instance_key=instance_key) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT, headers + "x-other: 1\r\n")).status == 200
        (received,) = f.instances[0].received
        assert received.headers.get("authorization") == passed_on
        assert received.headers["x-other"] == "1"
        assert not {"x-api-key", "api-key"} & set(received.headers)
        assert A not in str(received.headers)


async def test_where_no_keys_are_asked_for_they_are_the_instances(fleet):
    async with fleet() as f:
        client = await f.client()
        headers = "Authorization: bearer sk-1\r\nX-Api-Key: sk-2\r\napi-key: sk-3\r\n"
        assert (await client.post("/v1/chat/completions", CHAT, headers)).status == 200
        (received,) = f.instances[0].received
        assert [received.headers[name] for name in ("authorization", "x-api-key", "api-key")] == [
            "bearer sk-1",
            "sk-2",
            "sk-3",
        ]


@pytest.mark.parametrize(
    ("stream", "path"), [(False, "/v1/messages"), (True, "/v1/messages"), (False, "/v1/responses")]
)
async def test_the_tokens_of_an_answer_count_over_every_api(keyed, path, stream):
    usage = {"input_tokens": 10, "output_tokens": 70_000}  # which refill in 42 s

    async def answer(conversation: Conversation) -> None:
        if not stream:
            about = {"type": "message", "stop_reason": "end_turn", "status": "completed", "output": [{}]}
            await conversation.send_json({**about, "usage": usage})
            return
        await conversation.begin_stream()
        await conversation.send_event('{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}')
        ends = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        await conversation.send_event(json.dumps(ends))
        await conversation.end_stream()

    async with keyed(answer, tokens_per_minute=100_000) as f:
        client = await f.client()
        for _ in range(2):
            told = await client.post(path, {**CHAT, "input": "hi", "stream": stream}, bearing(B))
            assert told.status == 200
        assert 29_000 < int(told.headers["x-ratelimit-remaining-tokens"]) < 90_000


async def test_a_picture_does_not_use_up_a_keys_tokens(keyed):
    async with keyed(tokens_per_minute=10_000) as f:
        client = await f.client()
        data = "A" * 3_000_000
        for content in (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            {"image_url": f"data:image/png;base64,{data}"},
        ):
            body = {"model": "tiny", "messages": [{"role": "user", "content": [content]}]}
            for path in ("/v1/chat/completions", "/v1/embeddings"):
                answer = await client.post(path, body, bearing(B))
                assert answer.status == 200
        sound = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--b--' % data.encode()
        answer = await client.post("/v1/audio/transcriptions", sound, bearing(B))
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 3_000


async def test_a_used_up_limit_is_429_with_when_to_come_again(keyed):
    async with keyed(requests_per_minute=2, tokens_per_minute=100_000) as f:
        client = await f.client()
        for left in (1, 0):
            answer = await client.post("/v1/chat/completions", CHAT, bearing(B))
            assert answer.status == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 100_000
        refused = await client.post("/v1/chat/completions", CHAT, bearing(B))
        assert (refused.status, refused.error["type"]) == (429, "RateLimitError")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        others = await client.post("/v1/chat/completions", CHAT, bearing(A))
        assert others.status == 200
        assert not any(name.startswith("x-ratelimit") for name in others.headers)
        assert len(f.instances[0].received) == 3
        f.check_books_are_empty()


async def test_tenants_share_no_prefix_neither_here_nor_in_the_instance(keyed):
    """With equal prompts and equal salts of their own."""
    blocks = {}

    async def note(conversation: Conversation) -> None:
        for attempt in f.gateway.scheduler.attempts.values():
            blocks[attempt.request.tenant] = attempt.request.blocks
        await answer_hello(conversation)

    async with keyed(note, isolate=True) as f:
        client = await f.client()
        for salt in ({}, {"cache_salt": "mine"}):
            for key in (A, B, A):
                assert (await client.post("/v1/chat/completions", {**CHAT, **salt}, bearing(key))).status == 200
            assert not set(blocks["a"]) & set(blocks["b"])
        salts = [json.loads(received.body)["cache_salt"] for received in f.instances[0].received]
        assert salts[0] == salts[2] != salts[3] == salts[5]
        assert len(set(salts)) == 4
        streamed = await client.post("/v1/chat/completions", STREAM, bearing(A))
        assert streamed.status == 200
        body = json.loads(f.instances[0].received[-1].body)
        assert body["cache_salt"] == salts[0]
        assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/messages",
        "/inference/v1/generate",
        "/v1/embeddings",
        "/rerank",
        "/pooling",
        "/v1/chat/completions/batch",
    ],
)
async def test_whatever_may_have_a_prompt_gets_the_salt_of_its_tenant(keyed, path):
    async with keyed(isolate=True) as f:
        client = await f.client()
        body = {**CHAT, "input": "hi", "prompt": "hi", "token_ids": [1], "cache_salt": "mine"}
        for key in (A, B):
            assert (await client.post(path, body, bearing(key))).status == 200
        salts = {received.json["cache_salt"] for received in f.instances[0].received}
        assert len(salts) == 2
        assert "mine" not in salts


ODD_BODIES = [
    b'{"model":"tiny","messages":"hi"}',
    b'{"messages":[],"cache_salt":"mine"} \n',
    b'{"model":"tiny","messages":"hi","temperature":NaN,"cache_salt":"mine"}',
    b"{ }",
    b'{"cache_salt":"mine","x":NaN,"half":"\\ud800"}',
    b'{"cache_salt":"mine","x":"' + b"x" * (1 << 20) + b'"}',
]


@pytest.mark.parametrize("body", ODD_BODIES)
async def test_a_body_that_is_not_understood_gets_the_salt_of_its_tenant_as_well(keyed, body):
    async with keyed(isolate=True) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT, bearing(A))).status == 200
        assert (await client.post("/v1/chat/completions", body, bearing(A))).status == 200
        salts = [json.loads(received.body)["cache_salt"] for received in f.instances[0].received]
        assert salts[0] == salts[1] != "mine"


@pytest.mark.parametrize("value", [b"[" * 100_000 + b"]" * 100_000, b"1" * 5000], ids=["deep", "long"])
async def test_what_another_python_might_read_gets_the_salt_too(keyed, value):
    """How deep JSON may be, and how long a number, is not the same everywhere."""
    async with keyed(isolate=True) as f:
        client = await f.client()
        body = b'{"cache_salt":"mine","x":%b}' % value
        assert (await client.post("/v1/chat/completions", body, bearing(A))).status == 200
        received = f.instances[0].received[0].body
        assert received.startswith(body[:-1] + b',"cache_salt":"')


FORM = b"--b\r\n\r\n{}\r\n--b--" + b" " * (1 << 20)


@pytest.mark.parametrize("body", [b"[]", b"hi", b"", b'{"a": 1,}', b'{"a": 1}// done', b'{"a": "\xff"}', FORM])
async def test_what_is_no_object_is_passed_on_as_it_is(keyed, body):
    """vLLM says where it is wrong."""
    async with keyed(isolate=True) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", body, bearing(A))).status == 200
        assert f.instances[0].received[0].body == body


async def test_a_changed_file_holds_within_a_second_and_a_broken_one_not_at_all(keyed, tmp_path):
    path = tmp_path / "keys.yaml"
    async with keyed() as f:
        access, now = f.gateway.service.access, time.monotonic()
        client = await f.client()
        path.write_text("keys: [")
        access.sweep(now + 2.0)
        assert (await client.post("/v1/chat/completions", CHAT, bearing(B))).status == 200
        path.write_text(yaml.safe_dump({"keys": [{"sha256": hash_key(A.encode())}]}))
        access.sweep(now + 4.0)
        assert (await client.post("/v1/chat/completions", CHAT, bearing(A))).status == 200
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT, bearing(B))).status == 401


async def test_a_key_that_is_taken_away_while_a_body_comes_is_refused(keyed, tmp_path):
    path = tmp_path / "keys.yaml"
    request = post("/v1/chat/completions", CHAT, bearing(B))
    async with keyed() as f:
        client = await f.client()
        await client.send(request[:-5])
        (connection,) = f.gateway.service.clients
        await f.until(lambda: connection._reader.request is not None and connection._reader.request.head_complete)
        path.write_text(yaml.safe_dump({"keys": [{"sha256": hash_key(A.encode())}]}))
        f.gateway.service.access.sweep(time.monotonic() + 2.0)
        await client.send(request[-5:])
        assert (await client.answer()).error["type"] == "AuthenticationError"
        assert f.instances[0].received == []
        f.check_books_are_empty()


async def test_no_key_is_seen_in_what_the_gateway_tells(keyed):
    async with keyed() as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT, bearing(A) + "x-request-id: r1\r\n")
        admin = await f.client(f.admin_port)
        secret = "authorization: Bearer secret\r\n"
        for path in ("/metrics", "/admin/status", "/admin/live", "/admin/decisions?request_id=r1"):
            told = (await admin.get(path, secret)).body.decode()
            assert told
            assert A not in told
            assert hash_key(A.encode()) not in told


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("keys: [", "expected the node content"),
        ("", "the file"),
        ("keys: [2026-13-45]", "month must be in 1..12"),
        pytest.param("[" * 500, "recursion", id="nested"),
        ("keys: [{tenant: a}]", "keys.0.sha256: Field required"),
        ("keys: [{sha256: abc}]", "keys.0.sha256: String should match"),
        (f"keys: [{{sha256: {'a' * 64}, limit: 3}}]", "keys.0.limit: Extra inputs"),
        (f"keys: [{{sha256: {'a' * 64}, requests_per_minute: 0}}]", "keys.0.requests_per_minute: Input should be"),
        (f"keys: [{{sha256: {'a' * 64}}}, {{sha256: {'a' * 64}}}]", "two keys have the same hash"),
    ],
)
def test_a_file_of_keys_is_read_strictly(tmp_path, text, complaint):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ApiKeysError, match=complaint):
        load_api_keys(path)
    with pytest.raises(ConfigFileError, match=r"gateway\.api_keys_file: "):
        load_config(None, {"simulate": {"count": 1}, "gateway": {"api_keys_file": str(path)}})


def test_an_error_in_a_file_of_keys_shows_nothing_of_it(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text("keys: [{sha256: 'hunter2}]")
    with pytest.raises(ApiKeysError, match="unexpected end of stream") as raised:
        load_api_keys(path)
    assert "hunter2" not in str(raised.value)


def test_a_made_key_is_found_by_its_hash(tmp_path, capsys):
    assert main(["key", "search"]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    key = first.rpartition(" ")[2]
    path = tmp_path / "keys.yaml"
    path.write_text("\n".join(["keys:", *lines]))
    found = find_key(load_api_keys(path), [b"another", key.encode()])
    assert found is not None
    assert found.tenant == "search"
    assert key not in path.read_text()


@pytest.mark.parametrize(
    ("gateway", "complaint"),
    [
        ({"tls_cert_file": "cert.pem"}, "both, or neither"),
        ({"tls_cert_file": "no.pem", "tls_key_file": "no.pem"}, "No such file"),
        ({"picker": {}, "isolate_tenants": True}, "its proxy's"),
    ],
)
def test_settings_of_security_that_do_not_go_together_are_refused(gateway, complaint):
    with pytest.raises(ConfigFileError, match=complaint):
        load_config(None, {"simulate": {"count": 1}, "gateway": gateway})
