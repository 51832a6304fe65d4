"""Instances that are reached over TLS, over a socket, below a path's prefix or at an IPv6 address, each with a server
that really listens so: endpoint_connection.py, instance_head.py, upstream_pool.py."""

import asyncio
import datetime
import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.certs import write_cert
from tests.router.conftest import CHAT, STREAM, Conversation, Instance, Script, answer_hello, post

TOKEN = json.dumps({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})


async def answer(conversation: Conversation) -> None:
    """As a stream where it is asked for."""
    if conversation.request.json.get("stream"):
        await conversation.begin_stream()
        for _ in range(3):
            await conversation.send_event(TOKEN)
        await conversation.send_event("[DONE]")
        await conversation.end_stream()
    else:
        await answer_hello(conversation)


def tls_context(directory: Path, authority: trustme.CA, **about: object) -> ssl.SSLContext:
    """Of a server whose certificate is for 127.0.0.1 and vllm.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("vllm.test", "127.0.0.1", **about).configure_cert(context)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return context


def plain(directory: Path, script: Script) -> Instance:
    return Instance(script)


def tls(directory: Path, script: Script) -> Instance:
    context = tls_context(directory, trustme.CA())
    return Instance(script, Endpoint("127.0.0.1", tls=True, ca_file=str(directory / "ca.pem")), context)


def named(directory: Path, script: Script) -> Instance:
    context = tls_context(directory, trustme.CA())
    endpoint = Endpoint("127.0.0.1", tls=True, ca_file=str(directory / "ca.pem"), server_name="vllm.test")
    return Instance(script, endpoint, context)


def unix(directory: Path, script: Script) -> Instance:
    return Instance(script, Endpoint(socket=str(directory / "vllm.sock")))


def prefixed(directory: Path, script: Script) -> Instance:
    return Instance(script, Endpoint("127.0.0.1", prefix="/llm/a%20b"))


def ipv6(directory: Path, script: Script) -> Instance:
    return Instance(script, Endpoint("::1"))


WAYS = (plain, tls, named, unix, prefixed, ipv6)
Way = Callable[[Path, Script], Instance]


@pytest.mark.parametrize("way", WAYS)
async def test_requests_are_answered_over_connections_that_are_kept(fleet, tmp_path, way: Way):
    async with fleet(way(tmp_path, answer)) as f:
        client = await f.client()
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", CHAT)).json["choices"] == [{"text": "hello"}]
            stream = await client.post("/v1/chat/completions", STREAM)
            assert stream.body.count(TOKEN.encode()) == 3
            assert stream.body.endswith(b"data: [DONE]\n\n")
        large = {**CHAT, "messages": [{"role": "user", "content": "x" * 1_000_000}]}
        assert (await client.post("/v1/chat/completions", large)).status == 200
        (instance,) = f.instances
        assert json.loads(instance.received[-1].body)["messages"] == large["messages"]
        assert instance.connections == 1
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("way", "host", "path"),
    [
        (plain, "127.0.0.1:{port}", "/v1/chat/completions"),
        (tls, "127.0.0.1:{port}", "/v1/chat/completions"),
        (named, "vllm.test:{port}", "/v1/chat/completions"),
        (unix, "localhost", "/v1/chat/completions"),
        (prefixed, "127.0.0.1:{port}", "/llm/a%20b/v1/chat/completions"),
        (ipv6, "[::1]:{port}", "/v1/chat/completions"),
    ],
)
async def test_an_instance_is_called_by_its_name_and_below_its_prefix(fleet, tmp_path, way, host, path):
    async with fleet(way(tmp_path, answer)) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions?a=b", CHAT)).status == 200
        (received,) = f.instances[0].received
        assert received.headers["host"] == host.format(port=f.instances[0].port)
        assert received.line == f"POST {path}?a=b HTTP/1.1"


async def test_a_rank_is_named_to_its_server_whatever_a_client_says(fleet):
    async with fleet(Instance(answer, Endpoint("127.0.0.1", rank=3)), Instance(answer)) as f:
        client = await f.client()
        for number in range(8):
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body, "X-Data-Parallel-Rank: 9\r\n")).status == 200
        ranked, other = f.instances
        assert ranked.received
        assert other.received
        name = "x-data-parallel-rank"
        assert {received.headers[name] for received in ranked.received} == {"3"}
        assert {received.headers[name] for received in other.received} == {"9"}, "vLLM's to choose by"


@pytest.mark.parametrize(
    "path", ["/v1/../../secret", "/v1/%2e%2e/%2e%2e/secret", "//v1/../..//secret", "/v1/files/..%2f..%2f..%2fsecret"]
)
async def test_no_path_leads_out_of_the_prefix(fleet, tmp_path, path):
    async with fleet(prefixed(tmp_path, answer_hello)) as f:
        client = await f.client()
        answered = await client.get(path)
        assert answered.status in (200, 400, 404)
        assert all(received.line.startswith("GET /llm/a%20b/") for received in f.instances[0].received)
        assert not any(".." in received.line for received in f.instances[0].received)


@pytest.mark.parametrize("way", [tls, unix, prefixed])
async def test_where_one_breaks_another_answers(fleet, tmp_path, way: Way):
    async def cut(conversation: Conversation) -> None:
        conversation.reset()

    async with fleet(way(tmp_path, cut), answer) as f:
        client = await f.client()
        for number in range(4):
            body = {**STREAM, "messages": [{"role": "user", "content": str(number)}]}
            answered = await client.post("/v1/chat/completions", body)
            assert (answered.status, answered.headers["x-dualmap-instance"]) == (200, "i1")
        assert f.instances[0].received
        f.check_books_are_empty()


@pytest.mark.parametrize("way", [tls, unix, prefixed])
async def test_a_stream_that_is_cut_ends_with_an_error(fleet, tmp_path, way: Way):
    token_came = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event(TOKEN)
        await token_came.wait()
        conversation.reset()

    async with fleet(way(tmp_path, script)) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        assert (await client.answer_head()).status == 200
        assert TOKEN.encode() in await client.chunk()
        token_came.set()
        rest = b""
        while piece := await client.chunk():
            rest += piece
        assert b"The instance failed before its answer was complete." in rest
        f.check_books_are_empty()


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_who_leaves_is_left_by_the_instance(fleet, tmp_path, way: Way):
    async def never(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(way(tmp_path, never)) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.instances[0].received) == 1)
        client.leave()
        await f.until(lambda: f.instances[0].open_connections == 0)
        f.check_books_are_empty()


class Silent(Instance):
    """Takes connections and says nothing."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        while await reader.read(1024):
            pass
        self.open_connections -= 1
        writer.close()


async def test_a_client_who_leaves_while_tls_is_negotiated_leaves_no_connection(fleet):
    async with fleet(Silent(endpoint=Endpoint("127.0.0.1", tls=True)), connect_timeout_s=60.0) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: f.instances[0].open_connections == 1)
        client.leave()
        await f.until(lambda: f.instances[0].open_connections == 0)
        f.check_books_are_empty()


async def test_tls_that_is_not_negotiated_in_time_is_no_connection(fleet, caplog):
    async with fleet(Silent(endpoint=Endpoint("127.0.0.1", tls=True)), answer, connect_timeout_s=0.5) as f:
        client = await f.client()
        for number in range(4):
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body)).headers["x-dualmap-instance"] == "i1"
        await f.until(lambda: f.instances[0].open_connections == 0)
        assert "i0: no connection in time" in caplog.messages


@pytest.mark.parametrize("way", WAYS)
async def test_a_redirect_of_the_instance_is_one_of_the_gateway(fleet, tmp_path, way: Way):
    async def redirect(conversation: Conversation) -> None:
        instance = f.instances[0].endpoint
        leads = f"{instance.scheme}://{conversation.request.headers['host']}{instance.prefix}/v1/chat/completions/"
        await conversation.send_json({}, "307 Temporary Redirect", f"location: {leads}\r\n")

    async with fleet(way(tmp_path, redirect)) as f:
        answered = await (await f.client()).post("/v1/chat/completions", CHAT)
        assert (answered.status, answered.headers["location"]) == (307, "/v1/chat/completions/")


def expired(directory: Path) -> Instance:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    context = tls_context(directory, trustme.CA(), not_after=yesterday)
    return Instance(endpoint=Endpoint("127.0.0.1", tls=True, ca_file=str(directory / "ca.pem")), context=context)


def signed_by_another(directory: Path) -> Instance:
    context = tls_context(directory, trustme.CA())
    trustme.CA().cert_pem.write_to_path(directory / "other.pem")
    return Instance(endpoint=Endpoint("127.0.0.1", tls=True, ca_file=str(directory / "other.pem")), context=context)


def called_otherwise(directory: Path) -> Instance:
    instance = named(directory, answer)
    instance.endpoint = Endpoint("127.0.0.1", tls=True, ca_file=instance.endpoint.ca_file, server_name="other.test")
    return instance


class WithoutTls(Instance):
    """As uvicorn answers what is no HTTP."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        writer.close()


def without_tls(directory: Path) -> Instance:
    return WithoutTls(endpoint=Endpoint("127.0.0.1", tls=True))


WRONG = {
    expired: "its certificate has expired",
    signed_by_another: "its certificate is signed by nobody who is known here (ca_file)",
    called_otherwise: "its certificate has another name (server_name)",
    without_tls: "does it speak plain HTTP?",
}


@pytest.mark.parametrize(("make", "said"), WRONG.items())
async def test_a_certificate_that_is_not_right_lets_nothing_through_and_is_told(fleet, tmp_path, caplog, make, said):
    async with fleet(make(tmp_path), answer) as f:
        client = await f.client()
        for number in range(4):
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body)).headers["x-dualmap-instance"] == "i1"
        assert not f.instances[0].received
        told = [record.getMessage() for record in caplog.records if said in record.getMessage()]
        assert len(told) == 1
        assert told[0].startswith("i0: ")


async def test_an_authority_that_is_renewed_is_trusted_by_new_connections(fleet, tmp_path):
    instance = tls(tmp_path, answer)
    trusted = (tmp_path / "ca.pem").read_bytes()
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    async with fleet(instance) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
        (tmp_path / "ca.pem").write_bytes(trusted)
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200


async def test_a_certificate_may_be_trusted_itself(fleet, tmp_path):
    files = write_cert(tmp_path, trustme.CA(), "vllm.test")
    pem = (tmp_path / "cert.pem").read_text()
    (tmp_path / "ca.pem").write_text(pem[: pem.index("-----END CERTIFICATE-----") + 26])
    endpoint = Endpoint("127.0.0.1", tls=True, ca_file=str(tmp_path / "ca.pem"))
    async with fleet(Instance(answer, endpoint, files.context)) as f:
        assert (await (await f.client()).post("/v1/chat/completions", CHAT)).status == 200


async def test_a_socket_that_is_not_there_is_an_instance_that_is_not_reached(fleet, tmp_path, caplog):
    async with fleet(unix(tmp_path, answer), answer) as f:
        client = await f.client()
        f.instances[0].stop()
        (tmp_path / "vllm.sock").unlink(missing_ok=True)
        for number in range(4):
            body = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
            assert (await client.post("/v1/chat/completions", body)).status == 200
        assert "i0: there is no such socket" in caplog.messages
