"""One kept-alive connection to a server: what comes of answers, of silence, and of servers that close it."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from dualmap.instances.server import server_client
from dualmap.instances.server.reasons import NO_HTTP
from dualmap.instances.server.server_client import Answer, NoAnswerError, ServerClient, get_once
from dualmap.instances.server.start import free_ports
from dualmap.router.http import instance_key
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.conftest import WAIT_S

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
UNBOUNDED = b"HTTP/1.1 200 OK\r\n\r\nto the end"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK


class Raw:
    """answers: bytes to write for each request, in order; the last one repeats; None closes, empty answers nothing.
    closes: the connection after each answer. seen: heads of requests. connections: so far."""

    def __init__(self, *answers: bytes | None, closes: bool = False) -> None:
        self._answers = list(answers)
        self._closes = closes
        self.seen: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.seen.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if self._closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def with_server(raw: Raw, tell: Callable[[Endpoint], Coroutine[None, None, None]]) -> None:
    async def whole() -> None:
        server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
        async with asyncio.timeout(WAIT_S):
            await tell(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], prefix="/llm"))
        server.close()

    asyncio.run(whole())


def test_one_connection_serves_all_calls():
    raw = Raw(OK, CHUNKED, INTERIM)

    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(endpoint)
        bodies = await asyncio.gather(*(client.get(path, WAIT_S) for path in ("/a", "/b", "/c")))
        assert [answer.body for answer in bodies] == [b"ok", b"abcde", b"ok"]
        client.close()

    with_server(raw, tell)
    assert raw.connections == 1
    assert [head.split()[1] for head in raw.seen] == [b"/llm/a", b"/llm/b", b"/llm/c"]


def test_a_body_may_end_with_its_connection():
    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(endpoint)
        for _ in range(2):
            assert await client.get("/a", WAIT_S) == Answer(200, b"to the end")

    with_server(Raw(UNBOUNDED, closes=True), tell)


def test_a_connection_that_was_closed_meanwhile_is_replaced():
    raw = Raw(OK, None, OK)

    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(endpoint)
        for _ in range(2):
            assert await client.get("/a", WAIT_S) == Answer(200, b"ok")
        client.close()

    with_server(raw, tell)
    assert (raw.connections, len(raw.seen)) == (2, 3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "it closed the connection"),
        (b"", "no answer within 0.05 s"),
        (OK[:-1], "no answer within 0.05 s"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", NO_HTTP),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100, "it answers with more than 0 MiB"),
    ],
)
def test_why_there_is_no_answer_is_said_and_the_next_call_connects_anew(answer, reason: str, monkeypatch):
    monkeypatch.setattr(server_client, "MAX_BODY_BYTES", 50)
    raw = Raw(answer, *[OK] * 2)

    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(endpoint)
        with pytest.raises(NoAnswerError) as caught:
            await client.get("/a", 0.05 if "within" in reason else WAIT_S)
        assert str(caught.value) == reason
        assert await client.get("/a", WAIT_S) == Answer(200, b"ok")
        client.close()

    with_server(raw, tell)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one():
    raw = Raw(b"", OK)

    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(endpoint)
        call = asyncio.create_task(client.get("/a", WAIT_S))
        while not raw.seen:  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert (await client.get("/b", WAIT_S)).body == b"ok"
        client.close()

    with_server(raw, tell)
    assert raw.connections == 2


def test_a_port_where_nobody_listens_refuses_the_connection():
    async def tell() -> None:
        (port,) = free_ports("127.0.0.1", 1)
        with pytest.raises(NoAnswerError, match="connection refused"):
            await ServerClient(Endpoint("127.0.0.1", port)).get("/", WAIT_S)
        assert await get_once(Endpoint("127.0.0.1", port), "/", WAIT_S) is None

    asyncio.run(tell())


def test_the_key_is_sent_along_and_read_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(instance_key, "LOOK_INTERVAL_S", 0.0)
    key_file = tmp_path / "key"
    key_file.write_text("first")
    raw = Raw(OK)

    async def tell(endpoint: Endpoint) -> None:
        client = ServerClient(Endpoint(endpoint.host, endpoint.port, key_file=str(key_file)))
        await client.get("/a", WAIT_S)
        key_file.write_text("another")
        await client.post("/b", {}, WAIT_S)
        client.close()

    with_server(raw, tell)
    assert [b"Bearer first" in raw.seen[0], b"Bearer another" in raw.seen[1]] == [True, True]
