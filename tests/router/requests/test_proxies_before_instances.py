"""What may stand before an instance and answer in its place: pages, redirects, compressed answers; HEAD, OPTIONS."""

import gzip
import json
import zlib

import pytest

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.instance_head import head_to
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello, post

PAGE = b"<html><head><title>Bad Gateway</title></head><body><center>nginx</center></body></html>"
MESSAGES = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def page(status: str, kind: str = "text/html"):
    async def script(conversation: Conversation) -> None:
        head = f"HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Type: {kind}\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        await conversation.send(head.encode() + PAGE)

    return script


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    "script",
    [
        page("502 Bad Gateway"),
        page("503 Service Unavailable"),
        page("504 Gateway Timeout"),
        page("502 Bad Gateway", "text/plain"),
        page("504 Gateway Timeout", "application/json"),
        page("404 Not Found", "Text/HTML; charset=utf-8"),
        page("429 Too Many Requests"),
        page("429 Too Many Requests", "application/json"),
        page("520 Unknown"),
        page("200 OK"),
    ],
)
async def test_what_a_proxy_says_in_place_of_an_instance_is_had_elsewhere(fleet, script, body):
    async with fleet(script, answer_hello) as f:
        client = await f.client()
        for _ in range(4):
            answer = await client.post("/v1/chat/completions", body)
            assert (answer.status, answer.json["choices"]) == (200, [{"text": "hello"}])
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (page("502 Bad Gateway"), 503),
        (page("504 Gateway Timeout", "text/plain"), 503),
        (page("500 Internal Server Error"), 503),
        (page("200 OK"), 503),
        (page("404 Not Found"), 404),
        (page("413 Request Entity Too Large"), 413),
        (page("429 Too Many Requests"), 429),
        (page("499 Client Closed"), 400),
    ],
)
async def test_where_no_other_instance_is_left_the_client_gets_an_error_in_the_shape_of_its_api(fleet, script, status):
    async with fleet(script) as f:
        client = await f.client()
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGES), ("/v1/embeddings", CHAT)):
            answer = await client.post(path, body)
            assert answer.status == status
            assert answer.headers["content-type"] == "application/json"
            assert b"html" not in answer.body
            if path == "/v1/messages":
                assert answer.json["type"] == "error"
            else:
                assert answer.error["message"]
        await client.send(b"HEAD /v1/other HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer_head()).status == status
        assert (await client.get("/health")).status == 200
        f.check_books_are_empty()


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "422 Unprocessable Entity", "529 Overloaded"])
async def test_an_error_of_the_instance_itself_is_an_answer(fleet, status):
    async def refuse(conversation: Conversation) -> None:
        await conversation.send_json({"error": {"message": "mine"}}, status)

    async with fleet(refuse, refuse) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.json) == (int(status[:3]), {"error": {"message": "mine"}})
        assert sum(len(instance.received) for instance in f.instances) == 1


async def test_when_to_come_again_is_told_where_all_are_overloaded(fleet):
    async def overloaded(conversation: Conversation) -> None:
        headers = "retry-after: 7\r\n"
        await conversation.send_json({"error": {"message": "full"}}, "429 Too Many Requests", headers)

    async with fleet(overloaded, overloaded) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.headers["retry-after"], answer.json["error"]["message"]) == (429, "7", "full")
        assert all(instance.received for instance in f.instances)
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("location", "relayed"),
    [
        ("http://{own}/v1/files/?a=1#b", "/v1/files/?a=1#b"),
        ("HTTPS://{own}/v1/files", "/v1/files"),
        ("//{own}/v1/files", "/v1/files"),
        ("http://{own}", "/"),
        ("http://{own}?a=1", "/?a=1"),
        ("http://{own}//evil.example/", "/evil.example/"),
        ("http://me@{own}/v1/files", "/v1/files"),
        ("http://localhost:{port}/v1/files", "/v1/files"),
        ("http://0.0.0.0:{port}/v1/files", "/v1/files"),
        ("http://localhost:1/v1/files", "http://localhost:1/v1/files"),
        ("http://example.org:{port}/v1/files", "http://example.org:{port}/v1/files"),
        ("/v1/files", "/v1/files"),
        ("files", "files"),
        ("http://{own}.evil/v1/files", "http://{own}.evil/v1/files"),
        ("https://example.org/login?to=http://{own}/", "https://example.org/login?to=http://{own}/"),
    ],
)
async def test_a_redirect_of_an_instance_stays_here(fleet, location, relayed):
    async def redirect(conversation: Conversation) -> None:
        port = f.instances[0].port
        to = location.format(own=f"127.0.0.1:{port}", port=port)
        await conversation.send(f"HTTP/1.1 307 x\r\nLocation: {to}\r\ncontent-length: 0\r\n\r\n".encode())

    async with fleet(redirect) as f:
        client = await f.client()
        answer = await client.post("/v1/elsewhere", {})
        assert answer.status == 307
        port = f.instances[0].port
        assert answer.headers["location"] == relayed.format(own=f"127.0.0.1:{port}", port=port)


@pytest.mark.parametrize(
    ("authority", "location", "relayed"),
    [
        (b"vllm.example:80", b"http://vllm.example/v1/files", b"/v1/files"),
        (b"vllm.example:80", b"http://VLLM.example:80/v1/files", b"/v1/files"),
        (b"vllm.example:80", b"//vllm.example/v1/files", b"/v1/files"),
        (b"vllm.example:80", b"https://vllm.example/v1/files", b"https://vllm.example/v1/files"),
        (b"vllm.example:443", b"https://vllm.example/v1/files", b"/v1/files"),
        (b"vllm.example:8000", b"http://vllm.example/v1/files", b"http://vllm.example/v1/files"),
        (b"[fe80::1]:8000", b"http://[FE80::1]:8000/v1/files", b"/v1/files"),
    ],
)
def test_an_instance_is_known_by_its_address_with_or_without_the_usual_port(authority, location, relayed):
    head = AnswerHead()
    head.note(b"location", location)
    name, _, port = authority.decode().rpartition(":")
    head.complete(307, True, head_to(Endpoint(name.strip("[]"), int(port))))
    assert head.lines == [b"location: %b\r\n" % relayed]


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3}}\n\n'
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"abort"}]}\n\n',
    USAGE,
    b"data: [DONE]\n\n",
)


def compressed(kind: bytes, parts: tuple[bytes, ...], coding: bytes, chunked: bool):
    """As it is, were it not compressed, it would be held, sifted and counted."""

    async def script(conversation: Conversation) -> None:
        packer = zlib.compressobj(level=0, wbits=31)  # its bytes stand in it as they are
        pieces = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in parts] + [packer.flush()]
        framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % sum(map(len, pieces))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nContent-Encoding: %b\r\n%b\r\n\r\n" % (kind, coding, framing)
        await conversation.send(head)
        for piece in pieces:
            await conversation.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await conversation.send(b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("kind", "body"), [(b"text/event-stream", STREAM), (b"application/json", CHAT)])
async def test_a_compressed_answer_is_relayed_as_it_comes_and_not_read(fleet, kind, body, chunked):
    async with fleet(compressed(kind, EVENTS, b"gzip", chunked)) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", body, "accept-encoding: gzip\r\n")
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
        assert ("content-length" in answer.headers) != chunked
        assert gzip.decompress(answer.body) == b"".join(EVENTS)
        assert "accept-encoding" not in f.instances[0].received[0].headers
        assert f.gateway.metrics.outcomes["ok"] == 1
        assert f.gateway.metrics.prompt_tokens == 0
        f.check_books_are_empty()


async def test_a_compressed_stream_that_breaks_is_cut_and_nothing_is_added(fleet):
    async def break_off(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
            b"transfer-encoding: chunked\r\n\r\n3\r\n\x1f\x8b\x08\r\n"
        )
        conversation.writer.close()

    async with fleet(break_off) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        assert (await client.answer_head()).status == 200
        assert await client.chunk() == b"\x1f\x8b\x08"
        assert await client.at_end()


async def test_an_answer_that_says_it_is_not_compressed_is_read(fleet):
    async def say_so(conversation: Conversation) -> None:
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        await conversation.send_json({"usage": usage}, headers="content-encoding: identity\r\n")

    async with fleet(say_so) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert f.gateway.metrics.prompt_tokens == 10


@pytest.mark.parametrize("framing", ["content-length: 500", "transfer-encoding: chunked", "x-other: 1"])
async def test_the_answer_to_head_has_no_body_whatever_it_says_of_one(fleet, framing):
    async def answer_head(conversation: Conversation) -> None:
        if conversation.request.line.startswith("HEAD"):
            await conversation.send(f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{framing}\r\n\r\n".encode())
        else:
            await answer_hello(conversation)

    async with fleet(answer_head) as f:
        client = await f.client()
        for _ in range(2):
            await client.send(b"HEAD /v1/other HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await client.answer_head()
            assert (answer.status, answer.headers.get("content-length")) == (
                200,
                "500" if framing == "content-length: 500" else None,
            )
            assert json.loads((await client.post("/v1/chat/completions", CHAT)).body)["choices"]
        assert f.instances[0].received[0].line == "HEAD /v1/other HTTP/1.1"
        f.check_books_are_empty()


async def test_what_the_gateway_answers_itself_has_no_body_for_head(fleet):
    async with fleet() as f:
        client = await f.client()
        for path in ("/health", "/ready", "/v1/models", "/nowhere", "/v1/chat/completions"):
            await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            full = await client.answer()
            await client.send(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            short = await client.answer_head()
            assert short.status == full.status
            if full.status == 200:
                assert short.headers == full.headers
        admin = await f.client(f.admin_port)
        await admin.send(b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await admin.answer_head()).status == 200
        assert (await admin.get("/health")).status == 200


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("*", 204, "GET, HEAD, POST, OPTIONS"),
        ("/v1/models", 204, "GET, HEAD, OPTIONS"),
        ("/health", 204, "GET, HEAD, OPTIONS"),
        ("/v1/chat/completions", 204, "POST, OPTIONS"),
        ("/nowhere", 404, None),
    ],
)
async def test_a_path_tells_what_it_takes(fleet, path, status, allow):
    async with fleet() as f:
        client = await f.client()
        for version in ("1.1", "1.0"):
            await client.send(f"OPTIONS {path} HTTP/{version}\r\nhost: x\r\n\r\n".encode())
            answer = await client.answer()
            assert (answer.status, answer.headers.get("allow")) == (status, allow)
        assert await client.at_end()


async def test_no_instance_is_asked_to_show_a_request_as_it_came(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.send(b"TRACE /v1/other HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.answer()).status == 405
        assert not f.instances[0].received
