"""Which API a request belongs to, and what is refused."""

import pytest

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.routes import find_api
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError
from tests.router.conftest import CHAT, post

BY_PREFIX = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/inference/v1/generate",
]
BY_LOAD = [
    "POST /v1/embeddings",
    "POST /rerank",
    "POST /v1/rerank",
    "POST /v2/rerank",
    "POST /score",
    "POST /v1/score",
    "POST /classify",
    "POST /pooling",
    "POST /generative_scoring",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "POST /v1/audio/speech",
    "POST /tokenize",
    "POST /detokenize",
    "POST /v1/images/generations",
    "POST /v1/chat/completions/render",
    "POST /v1/responses/render",
    "GET /v1/assistants",
    "PUT /v1/threads/t1",
    "PATCH /v1/threads/t1",
    "DELETE /v1/threads/t1",
    "GET /version",
]
BY_STATE = [
    "GET /v1/responses/resp_1",
    "DELETE /v1/responses/resp_1",
    "POST /v1/responses/resp_1/cancel",
    "GET /v1/responses/resp_1/input_items",
    "GET /v1/conversations/conv_1",
    "POST /v1/conversations/conv_1/items",
]
HERE = ["GET /v1/models", "GET /v1/models/org/name", "GET /health", "GET /ready", "GET /ping", "HEAD /health"]
STEERING = [
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/pause",
    "/resume",
    "/collective_rpc",
    "/start_profile",
    "/scale_elastic_ep",
    "/v1/sleep",
    "/v1/collective_rpc",
    "/Sleep",
    "/fault_tolerance/apply",
]


def found(line: str) -> Api | HttpError:
    request = HttpRequest(0.0)
    request.method, _, request.path = line.partition(" ")
    return find_api(request)


@pytest.mark.parametrize(
    ("line", "placement"),
    [
        *((f"POST {path}", Placement.PREFIX) for path in BY_PREFIX),
        *((line, Placement.LOAD) for line in BY_LOAD),
        *((line, Placement.STATE) for line in BY_STATE),
        *((line, Placement.HERE) for line in HERE),
        ("POST /v1/load_lora_adapter", Placement.ALL),
        ("POST /v1/unload_lora_adapter", Placement.ALL),
    ],
)
def test_every_api_has_its_placement(line, placement):
    api = found(line)
    assert isinstance(api, Api)
    assert api.placement is placement


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", STEERING)
def test_what_steers_a_server_is_refused(method, path):
    error = found(f"{method} {path}")
    assert isinstance(error, HttpError)
    assert (error.status, error.type) == (403, "PermissionDeniedError")


@pytest.mark.parametrize("line", ["POST /v1/files", "DELETE /v1/files/file-1", "POST /v1/batches", "GET /v1/realtime"])
def test_what_is_not_served_is_said_to_be(line):
    error = found(line)
    assert isinstance(error, HttpError)
    assert error.status == 501
    assert "not" in error.message


@pytest.mark.parametrize("line", ["GET /", "GET /metrics", "POST /generate", "GET /docs", "GET /v1"])
def test_other_paths_are_not_there(line):
    error = found(line)
    assert isinstance(error, HttpError)
    assert error.status == 404


@pytest.mark.parametrize("line", ["POST /chat/completions", "POST /v1/v1/messages", "GET /models", "POST /v1/v1/other"])
def test_a_path_with_v1_never_or_twice_is_told_the_right_one(line):
    error = found(line)
    assert isinstance(error, HttpError)
    right = "/v1/" + line.split("/")[-1].replace("completions", "chat/completions")
    assert (error.status, f"`{right}`" in error.message) == (404, not line.endswith("other"))


@pytest.mark.parametrize("line", ["GET /v1/chat/completions", "PUT /v1/responses", "POST /v1/models", "GET /tokenize"])
def test_another_method_is_told_which_there_is(line):
    error = found(line)
    assert isinstance(error, HttpError)
    assert (error.status, bool(error.allow)) == (405, True)


async def test_any_method_below_v1_is_passed_on_with_its_body(fleet):
    async with fleet() as f:
        client = await f.client()
        body = b'{"a":1}'
        for method in ("PUT", "PATCH", "DELETE"):
            await client.send(post("/v1/threads/t1?x=1", body).replace(b"POST", method.encode(), 1))
            assert (await client.answer()).status == 200
            assert f.instances[0].received[-1].line == f"{method} /v1/threads/t1?x=1 HTTP/1.1"
            assert f.instances[0].received[-1].body == body
        f.check_books_are_empty()


async def test_one_model_is_told_by_its_card(fleet):
    async with fleet(cards=({"id": "org/tiny", "object": "model"},)) as f:
        client = await f.client()
        assert (await client.get("/v1/models/org/tiny")).json == {"id": "org/tiny", "object": "model"}
        missing = await client.get("/v1/models/other")
        assert (missing.status, missing.error["param"]) == (404, "model")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches"])
async def test_every_refusal_of_messages_has_their_shape(fleet, path):
    async with fleet(cards=({"id": "tiny"},), max_body_bytes=100) as f:
        told = {}
        for status, body, headers in (
            (404, {**CHAT, "model": "other"}, ""),
            (413, {**CHAT, "system": "hi" * 50}, ""),
            (415, CHAT, "content-encoding: rot13\r\n"),
        ):
            client = await f.client()
            told[status] = await client.post(path, body, headers)
        if path != "/v1/messages/batches":
            client = await f.client()
            told[405] = await client.get(path)
        assert [answer.status for answer in told.values()] == list(told)
        kinds = {status: answer.json["error"]["type"] for status, answer in told.items()}
    assert kinds.pop(404) == "not_found_error"
    assert kinds.pop(413) == "request_too_large"
    assert set(kinds.values()) == {"invalid_request_error"}
    assert {answer.json["type"] for answer in told.values()} == {"error"}


async def test_errors_of_messages_have_the_shape_that_their_clients_read(fleet):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/messages", CHAT, "x-dualmap-timeout-ms: soon\r\n")
        assert answer.status == 400
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "invalid_request_error"
        f.apply()
        answer = await client.post("/v1/messages", CHAT)
        assert (answer.status, answer.json["error"]["type"]) == (503, "overloaded_error")


def form(*parts: str) -> bytes:
    return b"".join(f"--b\r\n{part}\r\n".encode() for part in parts) + b"--b--\r\n"


SOUND = (
    'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nname="model"\r\n'
)
DECOY = 'content-disposition: form-data; name="file"; filename="; name=model; "\r\n\r\ntiny'
FORM, URLENCODED = "multipart/form-data; boundary=b", "application/x-www-form-urlencoded"


def named(model: str) -> str:
    return f'content-disposition: form-data; name="model"\r\n\r\n{model}'


BODIES = {
    "json": (b'{"input":"hi","model":"tiny"}', 200),
    "json of another": (b'{"input":"hi","model":"other"}', 404),
    "form": (form('Content-Disposition: form-data; name="model"\r\n\r\ntiny', SOUND), 200),
    "form of another": (form(SOUND, 'content-disposition: form-data; name="model"\r\n\r\nother'), 404),
    "unquoted": (
        form(SOUND, "content-disposition: form-data; name=model\r\nContent-Type: text/plain\r\n\r\nother"),
        404,
    ),
    "of no model": (form(SOUND), 200),
    "cut off": (form(SOUND)[:40], 200),
    "json with what is none": (b'{"input":"hi","temperature":NaN,"model":"other"}', 404),
    "json with half a character": (b'{"input":"\\ud83d","model":"other"}', 404),
    "json that names two": (b'{"model":["tiny"],"model":"other"}', 404),
    "form that names two": (form(named("tiny"), named("other")), 404),
    "form with another name in a name": (form(named("other"), DECOY), 404),
    "form of many parts": (form(*[SOUND] * 200, named("other")), 404),
    "form behind another": (form(named("tiny")).replace(b"--b", b"--c") + form(named("other")), 404, FORM),
    "form behind something": (b"nothing\r\n" + form(named("other")), 404, FORM),
    "form in one line": (b"prompt=hi&model=oth%65r", 404, URLENCODED),
    "form in one line that names two": (b"model=other&model=tiny", 200, URLENCODED),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_the_model_is_read_from_where_it_is(fleet, body):
    """As a server reads it, or a key that is limited to some models would not be."""
    body, status, *content_type = body
    headers = "".join(f"Content-Type: {each}\r\n" for each in content_type)
    async with fleet(cards=({"id": "tiny"},)) as f:
        client = await f.client()
        assert (await client.post("/v1/audio/transcriptions", body, headers)).status == status
        assert [received.body for received in f.instances[0].received] == [body] * (status == 200)
