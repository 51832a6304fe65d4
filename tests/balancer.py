"""What stands between a gateway and its servers in a data centre: a balancer that gives each connection to the next of
several servers, as a Kubernetes Service does, or one before which a path's prefix is taken off, as an ingress does."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from contextlib import suppress

NO_SUCH_PATH = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
PIECE = 65536


class Balancer:
    """Listens on 127.0.0.1, in a thread of its own. backends: ports on 127.0.0.1; may be changed at any time. prefix:
    what has another path is answered 404, and each connection takes one request. given: how often each was chosen."""

    def __init__(self, backends: Sequence[int], prefix: str = "") -> None:
        self.backends = tuple(backends)
        self.given: dict[int, int] = {}
        self._prefix = prefix.encode()
        self._turns = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await self._head(reader)
            if head is None:
                writer.write(NO_SUCH_PATH)
            elif upstream := await self._connect():
                upstream[1].write(head)
                await _relay(reader, writer, *upstream)
        writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes | None:
        """Of the first request, if it has to be changed; None: there is no such path."""
        if not self._prefix:
            return b""
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        if not rest.startswith(self._prefix + b"/"):
            return None
        line, _, fields = rest.removeprefix(self._prefix).partition(b"\r\n")
        return b"%b %b\r\nconnection: close\r\n%b" % (method, line, fields)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """To the next one that takes connections; None: to none, and the client's connection just ends."""
        for _ in self.backends:
            port = self.backends[next(self._turns) % len(self.backends)]
            with suppress(OSError):
                connected = await asyncio.open_connection("127.0.0.1", port)
                self.given[port] = self.given.get(port, 0) + 1
                return connected
        return None


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream_writer: asyncio.StreamWriter,
) -> None:
    """Both ways, until either side ends its connection."""
    ways = (_copy(reader, upstream_writer), _copy(upstream_reader, writer))
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        upstream_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
