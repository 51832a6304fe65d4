"""Pages of other origins in a browser: what they may ask, and what of the answers they may read."""

import time

import pytest

from dualmap.router.access.access import Access
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.http.cors import Cors
from tests.router.conftest import CHAT, STREAM, Client, Conversation

PAGE = "origin: https://chat.example\r\n"
ASKED = (
    f"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{PAGE}access-control-request-method: POST\r\n"
    "access-control-request-headers: authorization, content-type\r\n\r\n"
).encode()


@pytest.fixture
def open_to(fleet):
    """A gateway whose policy is as given; None: it has none."""

    class Opened:
        def __init__(self, cors, *scripts, **about):
            self._fleet, self._cors = fleet(*scripts, **about), cors

        async def __aenter__(self):
            f = await self._fleet.__aenter__()
            f.gateway.service.cors = self._cors
            return f

        async def __aexit__(self, *error):
            await self._fleet.__aexit__(*error)

    return Opened


async def preflight(client: Client, **changes: str):
    request = ASKED.decode()
    for name, value in changes.items():
        request = request.replace(name, value)
    await client.send(request.encode())
    return await client.answer()


async def test_a_preflight_is_answered_here_without_a_key(open_to, tmp_path):
    (tmp_path / "keys.yaml").write_text("keys: []")
    access = Access(tmp_path / "keys.yaml", time.monotonic)
    async with open_to(Cors(), about={"access": access}) as f:
        client = await f.client()
        answer = await preflight(client)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
        assert answer.headers["access-control-max-age"] == "600"
        assert "access-control-allow-credentials" not in answer.headers
        assert (await preflight(client, POST="DELETE")).status == 204  # the connection goes on
        refused = await client.post("/v1/chat/completions", CHAT, PAGE)
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "*")
        assert not f.instances[0].received


READABLE = {"access-control-allow-origin": "*"}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /health", 200),
        ("HEAD /health", 200),
        ("GET /v1/models", 200),
        ("GET /nowhere", 404),
        ("PUT /v1/chat/completions", 405),
        ("POST /v1/sleep", 403),
    ],
)
async def test_what_the_gateway_answers_itself_can_be_read_by_pages(open_to, request_line, status):
    async with open_to(Cors()) as f:
        client = await f.client()
        for origin, readable in ((PAGE, READABLE), ("", {})):
            await client.send(f"{request_line} HTTP/1.1\r\nhost: x\r\n{origin}\r\n".encode())
            answer = await (client.answer_head() if request_line.startswith("HEAD") else client.answer())
            assert answer.status == status
            assert {n: v for n, v in answer.headers.items() if n == "access-control-allow-origin"} == readable
            assert ("x-request-id" in answer.headers.get("access-control-expose-headers", "")) == bool(readable)


@pytest.mark.parametrize(("body", "status"), [({**CHAT, "model": "other"}, 404), (b"x" * 2000, 413)])
async def test_errors_of_a_request_can_be_read_by_pages(open_to, body, status):
    async with open_to(Cors(), cards=({"id": "tiny"},), max_body_bytes=1000) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", body, PAGE)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_an_instances_answer_says_once_what_pages_may_read(open_to, body):
    async def answer(conversation: Conversation) -> None:
        own = "Access-Control-Allow-Origin: https://other\r\nACCESS-CONTROL-EXPOSE-HEADERS: x\r\nvary: Origin\r\n"
        await conversation.send_json({}, headers=own)

    async with open_to(Cors(), answer) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", body, PAGE)  # the client checks that no field comes twice
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-dualmap-instance" in answer.headers["access-control-expose-headers"]
        assert f.instances[0].received[0].headers["origin"] == "https://chat.example"
        answer = await client.post("/v1/chat/completions", body)
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("cors", [None, Cors(origins=["https://other.example"])])
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_an_instance_lets_no_page_in_that_the_policy_keeps_away(open_to, cors, method):
    async def answer(conversation: Conversation) -> None:
        own = "access-control-allow-origin: *\r\naccess-control-allow-methods: POST\r\nvary: Origin\r\n"
        await conversation.send_json({}, headers=own)

    async with open_to(cors, answer) as f:
        client = await f.client()
        await client.send(f"{method} /v1/other HTTP/1.1\r\nhost: x\r\n{PAGE}content-length: 0\r\n\r\n".encode())
        answer = await client.answer()
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_list_of_origins_lets_no_other_page_in(open_to):
    async with open_to(Cors(origins=["https://Chat.example", "null"])) as f:
        client = await f.client()
        answer = await preflight(client)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert answer.headers["vary"] == "origin"
        assert (await preflight(client, **{"https://chat.example": "null"})).status == 204
        answer = await preflight(client, **{"https://chat.example": "https://evil.example"})
        assert (answer.status, answer.error["type"]) == (400, "BadRequestError")
        assert "gateway.cors.origins" in answer.error["message"]
        for origin, allowed in (("https://chat.example", True), ("https://chat.example.evil", False)):
            answer = await client.post("/v1/chat/completions", CHAT, f"origin: {origin}\r\n")
            assert answer.status == 200
            assert ("access-control-allow-origin" in answer.headers) == allowed


async def test_methods_and_headers_can_be_limited(open_to):
    async with open_to(Cors(methods=["GET", "post"], headers=["Authorization"])) as f:
        client = await f.client()
        answer = await preflight(client)
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        assert answer.headers["access-control-allow-headers"].endswith("content-type, authorization")
        for change in ({"POST": "DELETE"}, {"content-type\r": "x-secret\r"}):
            answer = await preflight(client, **change)
            assert answer.status == 400
            assert "gateway.cors." in answer.error["message"]


async def test_with_credentials_the_origin_is_named(open_to):
    async with open_to(Cors(credentials=True)) as f:
        client = await f.client()
        for answer in (await preflight(client), await client.get("/health", PAGE)):
            assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["vary"] == "origin"


async def test_without_a_policy_browsers_keep_pages_away(open_to):
    async with open_to(None) as f:
        client = await f.client()
        answer = await preflight(client)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        answer = await client.post("/v1/chat/completions", CHAT, PAGE)
        assert answer.status == 200
        assert "access-control-allow-origin" not in answer.headers


async def test_every_error_of_an_attempt_can_be_read_by_pages(open_to):
    async def reset(conversation: Conversation) -> None:
        conversation.reset()

    async with open_to(Cors(), reset) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, PAGE)
        assert answer.status == 503
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://chat.example/", "https://*.example", "https://a.example, https://b.example"]
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ConfigFileError, match=r"gateway\.cors\.origins\.0: .*https://chat\.example"):
        load_config(None, {"simulate": {"count": 1}, "gateway": {"cors": {"origins": [origin]}}})


def test_the_policy_is_open_by_default_and_can_be_taken_away():
    config = load_config(None, {"simulate": {"count": 1}})
    policy = config.gateway.cors_policy()
    assert policy is not None
    assert policy.answer_lines(b"https://chat.example").startswith(b"access-control-allow-origin: *\r\n")
    assert load_config(None, {"simulate": {"count": 1}, "gateway": {"cors": None}}).gateway.cors_policy() is None
