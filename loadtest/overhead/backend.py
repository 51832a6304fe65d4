"""Cheap model servers for the overhead benchmark: `python -m dualmap.loadtest.overhead.backend PORT PORT ...`.

All answers are fixed bytes. A body that ends with `"stream":true}` is answered with max_tokens events, one each CHUNK_S
from a random phase on, each in an HTTP chunk of its own; with token ids where the body asks for them at its beginning.
"""

import asyncio
import random
import re
import sys
from typing import cast

import httptools
import uvloop

CHUNK_S = 0.020
MODEL = "bench"
_BEFORE = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":'
)
_FIRST = (
    _BEFORE + b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":%b}\n\n'
)
_TOKEN = _BEFORE + b'{"content":" token"},"logprobs":null,"finish_reason":null,"token_ids":%b}]}\n\n'
_PROMPT_IDS = b"[%b]" % b",".join([b"12345"] * 50)
_ASKS_FOR_IDS = b'"return_token_ids":true'
_USAGE = b'"usage":{"prompt_tokens":50,"completion_tokens":1,"total_tokens":51}'
_LAST = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],' + _USAGE + b"}\n\ndata: [DONE]\n\n"
)
_PLAIN = b'{"choices":[{"index":0,"message":{"content":" token"},"finish_reason":"length"}],' + _USAGE + b"}"
_MAX_TOKENS = re.compile(rb'"max_tokens":(\d+)')


def _whole(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (content_type, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_PLAIN_ANSWER = _whole(_PLAIN)
_HEALTH_ANSWER = _whole(b"", b"text/plain")
_MODELS_ANSWER = _whole(b'{"object":"list","data":[{"id":"%s","object":"model"}]}' % MODEL.encode())
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIRST_CHUNKS = _chunk(_FIRST % b"null"), _chunk(_FIRST % _PROMPT_IDS)
_TOKEN_CHUNKS = _chunk(_TOKEN % b"null"), _chunk(_TOKEN % b"[12345]")
_LAST_CHUNK = _chunk(_LAST) + b"0\r\n\r\n"


class Backend(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._tail = b""
        self._asks_for_ids = False
        self._left = 0
        self._due = 0.0

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        if not self._tail:
            self._asks_for_ids = _ASKS_FOR_IDS in body[:200]
        self._tail = (self._tail + body)[-200:]

    def on_message_complete(self) -> None:
        tail, self._tail = self._tail, b""
        if tail.endswith(b'"stream":true}'):
            wanted = _MAX_TOKENS.search(tail)
            self._left = int(wanted[1]) if wanted else 1
            self._transport.write(_STREAM_HEAD + _FIRST_CHUNKS[self._asks_for_ids])
            self._due = asyncio.get_running_loop().time() + random.uniform(0, CHUNK_S)
            self._next()
        elif self._url.endswith(b"/v1/models"):
            self._transport.write(_MODELS_ANSWER)
        else:
            self._transport.write(_PLAIN_ANSWER if tail else _HEALTH_ANSWER)

    def _next(self) -> None:
        asyncio.get_running_loop().call_at(self._due, self._write_token)

    def _write_token(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(_LAST_CHUNK)
            return
        self._transport.write(_TOKEN_CHUNKS[self._asks_for_ids])
        self._left -= 1
        self._due += CHUNK_S
        self._next()


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Backend, "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))
