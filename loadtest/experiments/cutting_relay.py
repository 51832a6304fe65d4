"""A TCP relay before a server of streams, which cuts a stream's connection off after so many of its chunks."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

READ_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = b'data: {"'  # inside a text, its quotes would be escaped
NO_TEXT = (b'"content":""', b'"delta":{}', b'"text":"",')
IDS = b'"token_ids":['


class Way(StrEnum):
    """How a connection ends."""

    RESET = "reset"
    WITHIN = "reset within a chunk"
    CLOSED = "closed"
    HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class Cut:
    """after: so many chunks. within_character: after the first from there on whose token ends within a character."""

    after: int
    way: Way
    within_character: bool = False


class Cuts:
    """Those to come, in their order, whatever relay the stream goes through; each is made once. made: how many."""

    def __init__(self) -> None:
        self.made = 0
        self._left: deque[Cut] = deque()

    def order(self, cuts: Iterable[Cut]) -> None:
        """These, and no others, from now on."""
        self.made = 0
        self._left = deque(cuts)

    def due(self, chunks: int, chunk: bytes) -> Cut | None:
        """The one that is due behind this chunk of a stream, its number chunks."""
        cut = self._left[0] if self._left else None
        if cut is None or chunks < cut.after or (cut.within_character and not _ends_within_character(chunk)):
            return None
        self.made += 1
        return self._left.popleft()


def _ends_within_character(chunk: bytes) -> bool:
    return IDS in chunk and b'"role"' not in chunk and any(empty in chunk for empty in NO_TEXT)


class CuttingRelay:
    """host, port: of the server."""

    def __init__(self, host: str, port: int, cuts: Cuts) -> None:
        self.port = 0
        self._host = host
        self._server_port = port
        self._cuts = cuts
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            answers, requests = await asyncio.open_connection(self._host, self._server_port)
        except OSError:
            writer.transport.abort()
            return
        finally:
            task.add_done_callback(self._tasks.discard)
        back = _WayBack(writer, self._cuts)
        there = asyncio.create_task(_pump(reader, requests, back))
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                while (data := await answers.read(READ_BYTES)) and back.passes(data):
                    await writer.drain()
                if back.hangs:
                    await there  # until the gateway gives up
        finally:
            there.cancel()
            requests.transport.abort()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: "_WayBack") -> None:
    with suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            back.begin()
            writer.write(data)
            await writer.drain()
    writer.close()


class _WayBack:
    """Of one connection. hangs: nothing more goes back, and it stays open."""

    def __init__(self, writer: asyncio.StreamWriter, cuts: Cuts) -> None:
        self.hangs = False
        self._writer = writer
        self._cuts = cuts
        self._chunks = 0
        self._chunk = b""
        self._cut: Cut | None = None

    def begin(self) -> None:
        """A request has come."""
        self._chunks = 0
        self._chunk = b""

    def passes(self, data: bytes) -> bool:
        """Write what may pass; returns whether more may."""
        *whole, last = data.split(b"\n\n")
        for part in whole:
            if not self._write(part + b"\n\n"):
                return False
            chunk, self._chunk = self._chunk, b""
            if CHUNK in chunk:
                self._chunks += 1
                self._cut = self._cuts.due(self._chunks, chunk)
                if self._cut is not None and self._cut.way is not Way.WITHIN:
                    self._end(self._cut.way)
                    return False
        return self._write(last)

    def _write(self, part: bytes) -> bool:
        if self._cut is not None and len(part) > len(CHUNK):  # within the chunk that follows
            self._writer.write(part[: len(part) // 2])
            self._end(Way.RESET)
            return False
        self._chunk += part
        self._writer.write(part)
        return True

    def _end(self, way: Way) -> None:
        match way:
            case Way.HANGS:
                self.hangs = True
            case Way.CLOSED:
                self._writer.close()
            case _:
                sock: socket.socket = self._writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                self._writer.transport.abort()
