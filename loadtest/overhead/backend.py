"""Cheap model servers for the overhead benchmark: `python -m dualmap.loadtest.overhead.backend PORT PORT ...`.

A body that says `"stream":true` is answered with max_tokens events, one each CHUNK_S from a random phase on, each in an
HTTP chunk of its own; with token ids where the body asks for them. A prefill leg is told where its prompt is. What
routers ask beside is answered as vLLM does: how a prompt is rendered (a token for each four bytes), models, health and
version. All is fixed bytes but those tokens.
"""

import asyncio
import random
import re
import sys
from typing import cast

import httptools
import uvloop
import xxhash

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
_LENDS = b'"do_remote_decode":true'
_LENT = (  # as NixlConnector tells of a prompt of 8 KB
    b',"kv_transfer_params":{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[%b]],'
    b'"remote_engine_id":"05becf64-9ca0-4802-b16a-f491cb658784","remote_request_id":"chatcmpl-0123456789abcdef-0",'
    b'"remote_host":"10.0.0.1","remote_port":5600,"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":2048,'
    b'"remote_blocks_expiry_time":null,"transfer_mode":"pull","remote_prefill_cached_tokens":0}}'
) % b",".join(b"%d" % (7 * block) for block in range(128))
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')


def _whole(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (content_type, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_PLAIN_ANSWER = _whole(_PLAIN)
_LENT_ANSWER = _whole(_PLAIN[:-1] + _LENT)
_HEALTH_ANSWER = _whole(b"", b"text/plain")
_VERSION_ANSWER = _whole(b'{"version":"0.32.0"}')
_RENDERED = b'{"request_id":"render","token_ids":[%b],"sampling_params":{},"model":"bench"}'
_TOKENS = [b"%d" % (token * 7919 % 100_000) for token in range(32_768)]
_STREAM = re.compile(rb'"stream": ?true')
_MODELS_ANSWER = _whole(b'{"object":"list","data":[{"id":"%s","object":"model"}]}' % MODEL.encode())
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIRST_CHUNKS = _chunk(_FIRST % b"null"), _chunk(_FIRST % _PROMPT_IDS)
_TOKEN_CHUNKS = _chunk(_TOKEN % b"null"), _chunk(_TOKEN % b"[12345]")
_LAST_CHUNK = _chunk(_LAST) + b"0\r\n\r\n"


_ANSWERS = {b"/v1/models": _MODELS_ANSWER, b"/version": _VERSION_ANSWER}


def _rendered(body: bytes) -> list[bytes]:
    """Token ids of a prompt: those of the first differ from prompt to prompt."""
    digest = xxhash.xxh3_64_intdigest(body)
    return [b"%d" % (digest >> shift & 0xFFFF) for shift in (0, 16, 32, 48)] + _TOKENS[: len(body) // 4]


class Backend(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._left = 0
        self._due = 0.0

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        if self._url.endswith(b"/render"):
            self._transport.write(_whole(_RENDERED % b",".join(_rendered(body))))
        elif _LENDS in body:
            self._transport.write(_LENT_ANSWER)
        elif _STREAM.search(body):
            self._asks_for_ids = _ASKS_FOR_IDS in body
            wanted = _MAX_TOKENS.search(body)
            self._left = int(wanted[1]) if wanted else 1
            self._transport.write(_STREAM_HEAD + _FIRST_CHUNKS[self._asks_for_ids])
            self._due = asyncio.get_running_loop().time() + random.uniform(0, CHUNK_S)
            self.later()
        else:
            self._transport.write(_ANSWERS.get(self._url, _PLAIN_ANSWER if body else _HEALTH_ANSWER))

    def later(self) -> None:
        """Have the next token written when it is due."""
        asyncio.get_running_loop().call_at(self._due, self.write_token)

    def write_token(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(_LAST_CHUNK)
            return
        self._transport.write(_TOKEN_CHUNKS[self._asks_for_ids])
        self._left -= 1
        self._due += CHUNK_S
        self.later()


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Backend, "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve([int(port) for port in sys.argv[1:]]))
