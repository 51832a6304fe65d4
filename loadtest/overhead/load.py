"""The load of the overhead benchmark: `python -m dualmap.loadtest.overhead.load JSON`, with the fields of `Load`.

Prints a JSON object: {"ok": ..., "failed": ..., "first_failure": ...}. Each connection sends its next request when the
last answer has ended, and every prompt begins differently, so that none is found in a cache.
"""

import asyncio
import sys
from typing import cast

import httptools
import msgspec
import uvloop

from dualmap.loadtest.overhead.backend import MODEL


class Load(msgspec.Struct, frozen=True):
    """connections requests at a time, requests in all, prompts of prompt_bytes; stream_chunks 0: plain answers; per_s
    0: as fast as they are answered."""

    port: int = 0
    connections: int = 1
    requests: int = 1
    prompt_bytes: int = 200
    stream_chunks: int = 0
    first_id: int = 0  # prompts of runs with other numbers differ
    per_s: float = 0.0


class Loader:
    """Counts what comes back and deals out requests."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._sent = 0
        self._began = 0.0
        self.ok = 0
        self.first_failure = ""
        filler = ("lorem ipsum dolor sit amet " * (load.prompt_bytes // 27 + 1)).encode()
        self._before = b'{"model":"%s","messages":[{"role":"user","content":"' % MODEL.encode()
        stream = b"true" if load.stream_chunks else b"false"
        self._after = filler[: max(load.prompt_bytes - 16, 0)] + b'"}],"max_tokens":%d,"stream":%s}' % (
            load.stream_chunks or 1,
            stream,
        )
        length = len(self._before) + 16 + len(self._after)
        self._head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % length
        )

    def next_request(self) -> bytes | None:
        if self._sent == self.load.requests:
            return None
        self._sent += 1
        return b"%s%s%016x%s" % (self._head, self._before, self.load.first_id + self._sent, self._after)

    def due(self, now: float) -> float:
        """When the request that was dealt out last may be sent."""
        if not self.load.per_s:
            return now
        self._began = self._began or now
        return self._began + self._sent / self.load.per_s


class LoadConnection(asyncio.Protocol):
    """One kept-alive connection. `ended` is done when there is nothing more to send or the connection broke."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._tail = b""
        self._events = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._loader.first_failure = self._loader.first_failure or f"connection lost: {exc}"
            self.ended.set_result(None)

    def on_body(self, body: bytes) -> None:
        self._tail = body[-200:]
        self._events += body.count(b"data: ")

    def on_message_complete(self) -> None:
        events, self._events = self._events, 0
        if self._parser.get_status_code() == 200 and events >= self._loader.load.stream_chunks:
            self._loader.ok += 1
        elif not self._loader.first_failure:
            self._loader.first_failure = (
                f"{self._parser.get_status_code()}, {events} events: {self._tail.decode('utf-8', 'replace')}"
            )
        self._send()

    def _send(self) -> None:
        request = self._loader.next_request()
        if request is not None:
            self._parser = httptools.HttpResponseParser(self)
            loop = asyncio.get_running_loop()
            due = self._loader.due(now := loop.time())
            if due > now:
                loop.call_at(due, self._transport.write, request)
            else:
                self._transport.write(request)
        elif not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()


async def run(load: Load) -> Loader:
    loader = Loader(load)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: LoadConnection(loader), "127.0.0.1", load.port))[1]
        for _ in range(load.connections)
    ]
    await asyncio.gather(*(connection.ended for connection in connections))
    return loader


if __name__ == "__main__":
    chosen = msgspec.json.decode(sys.argv[1], type=Load)
    done = uvloop.run(run(chosen))
    result = {"ok": done.ok, "failed": chosen.requests - done.ok, "first_failure": done.first_failure}
    print(msgspec.json.encode(result).decode())
