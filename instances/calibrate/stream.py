"""One streamed completion of token ids, and when its tokens came."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools
import msgspec

from dualmap.scheduler.fleet.endpoint import host_port

READ_BYTES = 65536
ANSWER_TIMEOUT_S = 600.0
SHOWN_BYTES = 300  # of an answer that is an error


class CalibrateError(Exception):
    """The server cannot be measured; the message says why."""


@dataclass(slots=True)
class Streamed:
    """Times on the event loop's clock. ttft_s: from the request to the first token."""

    sent_s: float
    token_s: list[float] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.sent_s


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Event(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Answer:
    """What httptools finds in the bytes."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


async def stream(host: str, port: int, model: str, prompt: Sequence[int], output_tokens: int) -> Streamed:
    """Raises CalibrateError if it does not come to its last token."""
    body = {"model": model, "prompt": prompt, "max_tokens": output_tokens, "temperature": 0}
    options = {"include_usage": True, "continuous_usage_stats": True}
    payload = msgspec.json.encode(body | {"ignore_eos": True, "stream": True, "stream_options": options})
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host_port(host, port)}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            streamed = Streamed(asyncio.get_running_loop().time())
            writer.write(head.encode() + payload)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await _read(reader, streamed)
        finally:
            writer.close()
    except (OSError, httptools.HttpParserError, TimeoutError) as error:
        raise CalibrateError(f"a request for {len(prompt)} + {output_tokens} tokens broke: {error!r}") from None
    if len(streamed.token_s) != output_tokens:
        raise CalibrateError(f"{output_tokens} tokens were asked for, {len(streamed.token_s)} came")
    return streamed


async def _read(reader: asyncio.StreamReader, streamed: Streamed) -> None:
    """Raises CalibrateError for an answer that is an error, HttpParserError for none."""
    loop = asyncio.get_running_loop()
    answer = _Answer()
    while not answer.complete and (data := await reader.read(READ_BYTES)):
        now = loop.time()
        answer.parser.feed_data(data)
        if answer.parser.get_status_code() != 200:
            continue
        *events, rest = bytes(answer.body).split(b"\n\n")
        answer.body[:] = rest
        for event in events:
            streamed.token_s += [now] * (_tokens_after(event, len(streamed.token_s)) - len(streamed.token_s))
    if answer.body or (answer.complete and answer.parser.get_status_code() != 200):
        shown = bytes(answer.body[:SHOWN_BYTES]).decode(errors="replace")
        raise CalibrateError(f"the server answers {answer.parser.get_status_code()}: {shown}")


def _tokens_after(event: bytes, before: int) -> int:
    """Tokens of the answer so far. A server that is short of CPU puts several into one event. Raises CalibrateError."""
    if event == b"data: [DONE]":
        return before
    try:
        decoded = msgspec.json.decode(event.removeprefix(b"data: "), type=_Event)
    except msgspec.MsgspecError:
        raise CalibrateError(f"not an event of a completion: {event[:SHOWN_BYTES]!r}") from None
    if decoded.error:
        raise CalibrateError(f"the stream ended with an error: {bytes(decoded.error).decode(errors='replace')}")
    return decoded.usage.completion_tokens if decoded.usage else before + bool(decoded.choices)
