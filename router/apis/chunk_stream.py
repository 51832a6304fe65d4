"""Streams whose events are OpenAI's chunks: chats, completions, vLLM's generate, and whatever else a server streams."""

import re

import msgspec

from dualmap.router.apis.chunk_body import Choice, Chunk, decode_chunk
from dualmap.router.apis.stream_event import (
    ABORTED,
    CLIENT_ERRORS,
    ERROR,
    ERROR_NAME,
    PIECE,
    PRELUDE,
    UNKNOWN_ERROR_STATUS,
    UNREADABLE,
    USAGE,
    Meaning,
    StreamError,
    error_status,
    read_event,
    said_in_words,
)
from dualmap.router.http.openai_errors import HttpError, error_events

DONE = b"data: [DONE]\n\n"
DONE_DATA = b"[DONE]"
NOTHING = (b"null", b'""', b"{}", b"")
# vLLM: its server shuts down, as no client asked for it; it could not run the request, as another one may.
OWN_ENDINGS = ("abort", "error")
STATUS_OF = {  # where there is no code
    "BadRequestError": 400,
    "invalid_request_error": 400,
    "NotFoundError": 404,
    "RateLimitError": 429,
    "rate_limit_error": 429,
}


class ChunkStream:
    """See StreamRules."""

    alarms = (b"error", b'"abort"')
    noise: bytes | None = None
    token = re.compile(rb'(data: \{.*"(?:delta":\{"\w+|text)":")[^"]*(".*"finish_reason":null.*\}\n\n)')

    def __init__(self, *, known: bool) -> None:
        """known: whoever asks for such a stream gets one, made by the engine. A chat begins with a chunk that names
        its role, and a chunk without choices holds `usage` alone. Of other streams, each event is taken for a token."""
        self.heartbeats = known
        self.pauses = not known
        self._known = known

    def meaning(self, event: bytes) -> Meaning:
        name, data = read_event(event)
        if not data:
            return PRELUDE
        try:
            chunk = decode_chunk(data)
        except UNREADABLE:
            return ERROR if name == ERROR_NAME else PIECE
        error = _error_in(chunk, data, name)
        if error is not None:
            return PIECE if _status(error) in CLIENT_ERRORS else ERROR
        choices = chunk.choices
        if choices and any(choice.finish_reason in OWN_ENDINGS for choice in choices):
            return ABORTED
        if not self._known:
            return PIECE
        if not choices:
            if bytes(chunk.usage) not in NOTHING:
                return USAGE
            return PIECE if choices is None else PRELUDE
        return PRELUDE if all(map(_names_role, choices)) else PIECE

    def error(self, event: bytes) -> StreamError:
        name, data = read_event(event)
        try:
            error = _error_in(decode_chunk(data), data, name) or b"null"
        except UNREADABLE:
            error = msgspec.json.encode(said_in_words(data))
        return StreamError(_status(error), b'{"error":%b}' % error, event)

    def aborted(self, body: bytes) -> bool:
        # Where neither is there, `find` takes twice as long, and `in`, which looks for a number first, four times.
        if not (body.partition(b'"abort"')[1] or body.partition(b'"error"')[1]):
            return False
        try:
            choices = decode_chunk(body).choices
        except UNREADABLE:
            return False
        return any(choice.finish_reason in OWN_ENDINGS for choice in choices or ())

    def error_events(self, error: HttpError, tail: bytes) -> bytes:
        return error_events(error)

    def last_events(self, error: StreamError) -> bytes:
        return error.event + DONE


def _error_in(chunk: Chunk, data: bytes, name: bytes) -> bytes | None:
    """JSON. Servers before vLLM 0.10 send it without the object around it. name: of the event."""
    error = bytes(chunk.error)
    if error not in NOTHING:
        return error
    return data if name == ERROR_NAME or chunk.object == "error" else None


def _status(error: bytes) -> int:
    try:
        fields = msgspec.json.decode(error)
    except UNREADABLE:
        fields = None
    if not isinstance(fields, dict):
        return UNKNOWN_ERROR_STATUS
    return error_status(fields.get("code")) or STATUS_OF.get(str(fields.get("type")), UNKNOWN_ERROR_STATUS)


def _names_role(choice: Choice) -> bool:
    delta = choice.delta
    if not delta or "role" not in delta or choice.finish_reason is not None:
        return False
    return not any(value for name, value in delta.items() if name != "role")
