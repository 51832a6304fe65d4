"""Whatever a client does to its connection, no traceback is logged: an error of the loop fails each test, too."""

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme

from tests.conftest import WAIT_S
from tests.router.certs import write_cert
from tests.router.conftest import CHAT, STREAM, Conversation, Fleet, post
from tests.router.http.test_tls import trusting

ONE = post("/v1/chat/completions", CHAT)
CLOSE = post("/v1/chat/completions", CHAT, "connection: close\r\n")
EVENT = '{"choices":[{"delta":{"content":"a"}}]}'


async def flood(conversation: Conversation) -> None:
    """A stream until the gateway has enough."""
    await conversation.begin_stream()
    for _ in range(200):
        await conversation.send_event(EVENT * 200)
    await conversation.end_stream()


class Rude:
    """A client that speaks TLS by itself where it does, so that it can leave out what it wants. Blocking: for a
    thread."""

    def __init__(self, port: int, context: ssl.SSLContext | None, *, handshake: bool = True) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context and context.wrap_bio(self._in, self._out, server_hostname="gateway.test")
        if self.tls is not None and handshake:
            self._through(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        if self.tls is None:
            self.sock.sendall(data)
        else:
            self.tls.write(data)
            self.sock.sendall(self._out.read())

    def read(self) -> bytes:
        if self.tls is None:
            return self.sock.recv(65_536)
        try:
            return self._through(lambda: self.tls.read(65_536)) or b""
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def read_all(self) -> bytes:
        got = b""
        while piece := self.read():
            got += piece
        return got

    def notify(self) -> None:
        """TLS's own end."""
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError):  # the gateway's own end is not waited for
                self.tls.unwrap()
            with contextlib.suppress(ConnectionError):
                self.sock.sendall(self._out.read())

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hello(self) -> bytes:
        """The first of TLS's handshake."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def _through(self, step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._out.read())
                data = self.sock.recv(65_536)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                if pending := self._out.read():
                    self.sock.sendall(pending)


def asks_for_the_end(client: Rude) -> None:
    client.send(CLOSE)
    assert client.read_all().startswith(b"HTTP/1.1 200")


def resets_at_once(client: Rude) -> None:
    client.reset()


def resets_in_mid_head(client: Rude) -> None:
    client.send(ONE[:20])
    client.reset()


def resets_in_mid_answer(client: Rude) -> None:
    client.send(post("/v1/chat/completions", STREAM))
    assert client.read()
    client.reset()


def ends_in_mid_answer(client: Rude) -> None:
    client.send(post("/v1/chat/completions", STREAM))
    assert client.read()
    client.notify()
    client.sock.close()


def half_closes(client: Rude) -> None:
    client.send(ONE)
    client.sock.shutdown(socket.SHUT_WR)
    while client.sock.recv(65_536):
        pass


def half_closes_by_tls(client: Rude) -> None:
    client.send(ONE)
    client.notify()
    client.sock.shutdown(socket.SHUT_WR)
    client.sock.close()


def closes_twice(client: Rude) -> None:
    client.send(CLOSE)
    client.read_all()
    client.notify()
    client.reset()


def goes_on_with_garbage(client: Rude) -> None:
    client.sock.sendall(b"\x17\x03\x03\x00\x05garbage" if client.tls else b"\x00\xff garbage\r\n\r\n")
    try:
        while client.sock.recv(65_536):
            pass
    except ConnectionError:
        pass


DEEDS = (
    asks_for_the_end,
    resets_at_once,
    resets_in_mid_head,
    resets_in_mid_answer,
    ends_in_mid_answer,
    half_closes,
    half_closes_by_tls,
    closes_twice,
    goes_on_with_garbage,
)


async def end(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """The gateway is well, and nothing was logged but words."""
    await fleet.until(lambda: not fleet.gateway.service.clients and not fleet.gateway.driver.exchanges)
    fleet.check_books_are_empty()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_no_traceback_is_logged(fleet, tmp_path, caplog, deed, tls):
    authority = trustme.CA()
    about = {"tls": write_cert(tmp_path, authority)} if tls else {}
    script = flood if "mid_answer" in deed.__name__ else None
    async with fleet(*filter(None, [script]), about=about, linger_s=0.01) as f:
        context = trusting(authority) if tls else None
        for _ in range(3):
            await asyncio.to_thread(lambda: deed(Rude(f.port, context)))
        await end(f, caplog)


async def test_tls_at_the_plain_port_is_no_traceback(fleet, caplog):
    def greet(port: int) -> bytes:
        client = Rude(port, ssl.create_default_context(), handshake=False)
        client.sock.sendall(client.hello())
        client.tls = None
        return client.read_all()

    async with fleet() as f:
        assert (await asyncio.to_thread(greet, f.port)).startswith(b"HTTP/1.1 400")
        await end(f, caplog)


@pytest.mark.parametrize("sent", [ONE, b"\x16\x03\x01\x00\x05hello", b"\x00" * 5000, b"\n"])
async def test_what_is_no_tls_at_the_port_for_tls_is_no_traceback(fleet, tmp_path, caplog, sent):
    def greet(port: int) -> None:
        client = Rude(port, None)
        client.send(sent)
        client.sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            client.read_all()

    async with fleet(about={"tls": write_cert(tmp_path, trustme.CA())}) as f:
        await asyncio.to_thread(greet, f.port)
        await end(f, caplog)


async def test_a_handshake_that_is_broken_off_is_no_traceback(fleet, tmp_path, caplog):
    authority = trustme.CA()

    def begin(port: int, then: str) -> None:
        client = Rude(port, trusting(authority), handshake=False)
        client.sock.sendall(client.hello())
        assert client.sock.recv(1)
        client.reset() if then == "reset" else client.sock.close()

    async with fleet(about={"tls": write_cert(tmp_path, authority)}) as f:
        for then in ("reset", "close"):
            await asyncio.to_thread(begin, f.port, then)
        await end(f, caplog)
