"""HTTPS on the gateway's own port."""

import asyncio
import ssl

import pytest
import trustme

from dualmap.router.http.tls import TlsFiles
from tests.router.certs import write_cert
from tests.router.conftest import CHAT, Client, Conversation, post


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def connect(port: int, context: ssl.SSLContext, name: str = "gateway.test") -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))


async def test_requests_are_answered_over_tls_and_only_over_it(fleet, tmp_path):
    authority = trustme.CA()
    async with fleet(about={"tls": write_cert(tmp_path, authority)}) as f:
        client = await connect(f.port, trusting(authority))
        for _ in range(2):
            answer = await client.post("/v1/chat/completions", CHAT)
            assert answer.status == 200
        large = {**CHAT, "messages": [{"role": "user", "content": "x" * 1_000_000}]}
        assert (await client.post("/v1/chat/completions", large)).status == 200
        client.leave()
        plain = await f.client()
        await plain.send(post("/v1/chat/completions", CHAT))
        assert not (await plain.reader.read()).startswith(b"HTTP")
        f.check_books_are_empty()


async def test_connections_end_over_tls_when_they_are_asked_to_and_when_the_client_does(fleet, tmp_path):
    authority = trustme.CA()

    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(about={"tls": write_cert(tmp_path, authority)}) as f:
        client = await connect(f.port, trusting(authority))
        answer = await client.post("/v1/chat/completions", CHAT, "connection: close\r\n")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.at_end()
        f.instances[0].script = never_answer
        client = await connect(f.port, trusting(authority))
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.instances[0].received) == 2)
        client.leave()
        await f.until(lambda: not f.gateway.service.clients)
        f.check_books_are_empty()
        assert f.gateway.metrics.outcomes["cancelled"] == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
async def test_old_versions_of_tls_are_refused(fleet, tmp_path):
    authority = trustme.CA()
    async with fleet(about={"tls": write_cert(tmp_path, authority)}) as f:
        context = trusting(authority)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(f.port, context)


async def test_a_renewed_certificate_is_used_for_new_connections(fleet, tmp_path):
    authority = trustme.CA()
    tls = write_cert(tmp_path, authority)
    async with fleet(about={"tls": tls}) as f:
        first = await connect(f.port, trusting(authority))
        (tmp_path / "key.pem").write_text("half of a renewal")
        tls.renew()
        await connect(f.port, trusting(authority))
        write_cert(tmp_path, authority, "renewed.test")
        tls.renew()
        renewed = await connect(f.port, trusting(authority), "renewed.test")
        for client in (first, renewed):
            assert (await client.post("/v1/chat/completions", CHAT)).status == 200
            client.leave()


def test_a_key_of_another_certificate_is_refused(tmp_path):
    write_cert(tmp_path, trustme.CA())
    (tmp_path / "other").mkdir()
    write_cert(tmp_path / "other", trustme.CA())
    with pytest.raises(OSError, match=r"cert\.pem and .*key\.pem"):
        TlsFiles(tmp_path / "cert.pem", tmp_path / "other" / "key.pem")
