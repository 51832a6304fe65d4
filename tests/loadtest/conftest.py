"""A tiny OpenAI-like server that answers as a test tells it to, and the replay process against it."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from dualmap.loadtest.replay.process import ReplayOptions
from dualmap.loadtest.replay.run_file import RequestRow, RunHeader, read_run
from dualmap.loadtest.traces.trace import TraceRequest, write_trace
from tests.conftest import WAIT_S

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"


@pytest.fixture(scope="session")
def mooncake_trace() -> Path:
    path = TRACES / "mooncake_conversation.jsonl"
    if not path.exists():
        pytest.skip(f"no public trace at {path}")
    return path


@pytest.fixture(scope="session")
def agent_traces() -> Path:
    path = TRACES / "weka_agentic"
    if not path.exists():
        pytest.skip(f"no public traces at {path}")
    return path


@dataclass
class Call:
    """One request at the server. Requests are told apart by their max_tokens, which is the trace's output_length."""

    max_tokens: int
    body: bytes
    writer: asyncio.StreamWriter

    def head(self, status: str = "200 OK", headers: str = "") -> None:
        self.writer.write(f"HTTP/1.1 {status}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n".encode())

    def raw(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, event: dict) -> None:
        self.raw(b"data: " + json.dumps(event).encode() + b"\n\n")

    def token(self) -> None:
        self.event({"choices": [{"delta": {"content": "tok "}, "finish_reason": None}]})

    def finish(self, reason: str = "length", usage: dict | None = None) -> None:
        self.event({"choices": [{"delta": {}, "finish_reason": reason}]})
        if usage:
            self.event({"choices": [], "usage": usage})
        self.raw(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")

    def answer(self, headers: str = "", usage: dict | None = None) -> None:
        self.head(headers=headers)
        self.token()
        self.finish(usage=usage)


@dataclass
class ModelServer:
    """`behave` is awaited for each request in the server's own thread and loop."""

    behave: Callable[[Call], Awaitable[None]] | None = None
    port: int = 0
    arrived: list[int] = field(default_factory=list)  # max_tokens, in order of arrival
    log: list[str] = field(default_factory=list)
    arrival: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_arrived(self, max_tokens: int) -> None:
        async with self.arrival:
            await self.arrival.wait_for(lambda: max_tokens in self.arrived)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /v1/models"):
                card = b'{"data":[{"id":"tiny"}]}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(card), card))
            else:
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                max_tokens = json.loads(body)["max_tokens"]
                async with self.arrival:
                    self.arrived.append(max_tokens)
                    self.arrival.notify_all()
                await self.behave(Call(max_tokens, body, writer))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    server = ModelServer()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def serve() -> None:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, limit=2**24)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listener.close()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()


class ReplayProcess:
    """A replay process and the rows it left."""

    def __init__(self, out: Path, process: subprocess.Popen) -> None:
        self.out = out
        self.process = process

    def rows(self) -> dict[int, RequestRow]:
        """By index; waits for the end and fails if a request has no row or two."""
        self.process.wait(WAIT_S)
        header, rows = read_run(self.out)
        assert sorted(row.index for row in rows) == list(range(header.requests))
        return {row.index: row for row in rows}

    @property
    def header(self) -> RunHeader:
        return read_run(self.out)[0]


@pytest.fixture
def start_replay(tmp_path: Path) -> Iterator[Callable[..., ReplayProcess]]:
    started: list[subprocess.Popen] = []

    def start(requests: list[TraceRequest], port: int, **options: object) -> ReplayProcess:
        trace, out = tmp_path / "trace.jsonl", tmp_path / "run.jsonl"
        write_trace(trace, requests)
        chosen = ReplayOptions(trace=str(trace), target=f"http://127.0.0.1:{port}", out=str(out), **options)
        command = [sys.executable, "-m", "dualmap.loadtest.replay.process", msgspec.json.encode(chosen).decode()]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        return ReplayProcess(out, started[-1])

    yield start
    for process in started:
        process.kill()
        process.communicate()
