"""A gateway, scripted instances and raw clients on real sockets, each closed when the test ends, however it ends."""

import asyncio
import inspect
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.journal.writer import JournalWriter
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from tests.conftest import WAIT_S

TEST_LIMITS = HttpLimits(sweep_interval_s=0.01)


def replace_method(owner: object, name: str, method: Callable[..., Any]) -> None:
    """Skips the test where the class is machine code (setup.py), whose methods cannot be replaced."""
    try:
        setattr(owner, name, method)
    except AttributeError as why:
        pytest.skip(f"compiled: {why}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine test on uvloop; an error inside a callback of the loop fails it too."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    errors: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(WAIT_S):
            await pyfuncitem.obj(**arguments)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())
    assert not errors, errors
    return True


@dataclass
class Received:
    """One request as an instance got it."""

    line: str
    headers: dict[str, str]
    body: bytes
    turn: int  # how many requests came over the same connection before

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Conversation:
    """An instance's side of one request, for the script that answers it."""

    def __init__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # writing to it would be a RuntimeError of uvloop
            raise ConnectionResetError("the gateway has closed the connection")
        self.writer.write(data)
        await self.writer.drain()

    async def send_json(self, content: Any, status: str = "200 OK", headers: str = "") -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        await self.send(b"%x\r\n%b\r\n" % (len(event), event))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close at once, as a killed process does."""
        self.writer.transport.abort()

    async def closed_by_gateway(self) -> None:
        """Returns when the gateway has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Conversation], Awaitable[None]]


async def answer_hello(conversation: Conversation) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    await conversation.send_json({"choices": [{"text": "hello"}], "usage": usage})


HERE = Endpoint("127.0.0.1")


class Instance:
    """A scripted instance: `script` answers each request; it can be replaced at any time. endpoint: as gateways are
    told of it. context: of a server with TLS."""

    def __init__(
        self,
        script: Script = answer_hello,
        endpoint: Endpoint = HERE,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.endpoint = endpoint
        self._context = context
        self.received: list[Received] = []
        self.connections = 0
        self.open_connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> "Instance":
        if self.endpoint.socket:
            self._server = await asyncio.start_unix_server(self._serve, self.endpoint.socket)
        else:
            self._server = await asyncio.start_server(self._serve, self.endpoint.host, port, ssl=self._context)
            self.port = self._server.sockets[0].getsockname()[1]
            self.endpoint = replace(self.endpoint, port=self.port)
        return self

    def stop(self) -> None:
        """Refuse connections and reset those that are open."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = 0
        self.connections += 1
        self.open_connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *lines = head[:-4].split("\r\n")
                headers = {name.lower(): value for name, _, value in (entry.partition(": ") for entry in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Received(line, headers, body, turn)
                turn += 1
                self.received.append(request)
                await self.script(Conversation(request, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_connections -= 1
            self._writers.discard(writer)
            writer.close()


@dataclass
class Answer:
    """One answer as a client got it. chunks: of a chunked body; raw_body: as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == self.status
        return error


class Client:
    """A raw HTTP client that checks framing as it reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: Any, headers: str = "") -> Answer:
        await self.send(post(path, body, headers))
        return await self.answer()

    async def get(self, path: str, headers: str = "") -> Answer:
        await self.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
        return await self.answer()

    async def answer_head(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head[:-4].split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [entry.split(": ", 1) for entry in lines]
        assert len({name.lower() for name, _ in pairs}) == len(pairs), f"a header field is repeated: {lines}"
        return Answer(int(status), {name.lower(): value for name, value in pairs})

    async def chunk(self) -> bytes:
        """The next chunk; empty at the end."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def answer(self) -> Answer:
        answer = await self.answer_head()
        if answer.headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in answer.headers
            while data := await self.chunk():
                answer.chunks.append(data)
            answer.body = b"".join(answer.chunks)
        elif "content-length" in answer.headers:
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        elif answer.status not in (204, 304):
            answer.body = await self.reader.read()
        return answer

    async def at_end(self) -> bool:
        """Whether the gateway has closed the connection, with nothing more sent."""
        return await self.reader.read(1) == b""

    def leave(self) -> None:
        self.writer.transport.abort()

    def leave_by_reset(self) -> None:
        """Close with RST, so that unread data cannot hide the departure."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


def post(path: str, body: Any, headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data


CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True}


class Fleet:
    """A gateway on a real core with scripted instances i0, i1, ... behind it."""

    def __init__(self, gateway: Gateway, port: int, admin_port: int, instances: list[Instance]) -> None:
        self.gateway = gateway
        self.port = port
        self.admin_port = admin_port
        self.instances = instances
        self._clients: list[Client] = []
        self._epoch = 0

    async def client(self, port: int = 0, limit: int = 65536) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", port or self.port, limit=limit))
        self._clients.append(client)
        return client

    def forget_clients(self) -> None:
        """Those so far have left."""
        self._clients.clear()

    def member(self, index: int, state: MemberState = MemberState.READY, **changes: Any) -> Member:
        capacity = InstanceCapacity()
        endpoint = self.instances[index].endpoint
        return replace(Member(f"i{index}", 1, endpoint, state=state, capacity=capacity), **changes)

    def apply(self, *members: Member) -> None:
        self._epoch += 1
        self.gateway.apply_membership(Membership(self._epoch, members))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until the condition holds."""
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def check_books_are_empty(self) -> None:
        """Nothing is in flight, and everything booked has been given back."""
        assert not self.gateway.driver.exchanges
        assert not self.gateway.scheduler.attempts
        for view in self.gateway.scheduler.instances.values():
            assert view.running_count == view.waiting_count == 0
            assert view.booked_prefill_tokens == view.booked_kv_tokens == view.waiting_tokens == 0

    async def close(self) -> None:
        for client in self._clients:
            client.leave()
        await self.gateway.stop()
        for instance in self.instances:
            instance.stop()
        await asyncio.sleep(0)


class FleetContext:
    """`async with fleet(...) as f:`"""

    def __init__(
        self,
        scripts: tuple[Script | Instance, ...],
        limits: HttpLimits,
        cards: Any,
        config: SchedulerConfig,
        journal: Path | None = None,
        tokens: Any = None,
        pools: tuple[str, ...] = ("",),
        about: dict[str, Any] | None = None,
    ) -> None:
        self._about = about or {}
        self._tokens = tokens
        self._pools = pools
        self._scripts = scripts
        self._limits = limits
        self._cards = cards
        self._config = config
        self._journal = journal

    async def __aenter__(self) -> Fleet:
        made = [one if isinstance(one, Instance) else Instance(one) for one in self._scripts]
        instances = [await instance.start() for instance in made]
        journal = JournalWriter(self._journal, self._config) if self._journal else None
        gateway = Gateway(
            [Pool(name, Scheduler(self._config), None if place else journal) for place, name in enumerate(self._pools)],
            self._limits,
            GatewayMetrics(),
            block_tokens=self._config.block_tokens,
            admin_token="secret",
            tokens=self._tokens,
            **self._about,
        )
        await gateway.start("127.0.0.1", 0)
        self._fleet = Fleet(gateway, gateway.port, gateway.admin_port, instances)
        first = {"model_cards": self._cards, "pool": self._pools[0]}
        self._fleet.apply(*(self._fleet.member(i, **first) for i in range(len(instances))))
        return self._fleet

    async def __aexit__(self, *_: object) -> None:
        await self._fleet.close()


@pytest.fixture
def fleet() -> Callable[..., FleetContext]:
    def make(
        *scripts: Script | Instance,
        limits: HttpLimits = TEST_LIMITS,
        cards: tuple[dict[str, Any], ...] = (),
        config: SchedulerConfig | None = None,
        journal: Path | None = None,
        tokens: Any = None,
        pools: tuple[str, ...] = ("",),
        about: dict[str, Any] | None = None,
        **changes: Any,
    ) -> FleetContext:
        scripts = scripts or (answer_hello,)
        limits = replace(limits, **changes)
        return FleetContext(scripts, limits, cards, config or SchedulerConfig(), journal, tokens, pools, about)

    return make
