"""Streams of Anthropic's messages: events with names."""

import re
from typing import Any

import msgspec

from dualmap.router.apis.anthropic_error import anthropic_error
from dualmap.router.apis.stream_event import (
    ABORTED,
    CLIENT_ERRORS,
    ERROR,
    ERROR_NAME,
    PIECE,
    PRELUDE,
    UNKNOWN_ERROR_STATUS,
    UNREADABLE,
    Meaning,
    StreamError,
    error_status,
    read_event,
    said_in_words,
)
from dualmap.router.http.openai_errors import HttpError

PRELUDES = ("message_start", "content_block_start", "content_block_stop", "ping")
STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    # As vLLM calls them.
    "BadRequestError": 400,
    "NotFoundError": 404,
    "UnprocessableEntityError": 422,
    "ServiceUnavailableError": 503,
}


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: dict[str, Any] | None = None
    error: Any = None


class _Message(msgspec.Struct, gc=False):
    type: str = ""
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_plain = msgspec.json.Decoder(_Message).decode


class MessagesStream:
    """See StreamRules."""

    alarms = (b"error", b'"stop_reason"')
    noise: bytes | None = b'"ping"'
    pauses = False
    token = re.compile(rb'(event: content_block_delta\ndata: \{.*"text":")[^"]*("[^\n]*\}\n\n)')
    heartbeats = True

    def meaning(self, event: bytes) -> Meaning:
        name, data = read_event(event)
        if not data:
            return PRELUDE
        try:
            content = _decode(data)
        except UNREADABLE:
            return ERROR if name == ERROR_NAME else PIECE
        kind = content.type or name.decode("latin-1")
        if kind == "error" or (not kind and content.error):
            return PIECE if self.error(event).status in CLIENT_ERRORS else ERROR
        if kind == "message_delta" and content.delta is not None:  # vLLM: aborted, where it has no reason
            return ABORTED if content.delta.get("stop_reason") is None else PIECE
        return PRELUDE if kind in PRELUDES else PIECE

    def error(self, event: bytes) -> StreamError:
        _, data = read_event(event)
        try:
            said = _decode(data).error
        except UNREADABLE:
            said = said_in_words(data)
        error = said if isinstance(said, dict) else {"message": said}
        error.setdefault("type", "api_error")
        status = error_status(error.get("code")) or STATUS_OF.get(str(error.get("type")), UNKNOWN_ERROR_STATUS)
        return StreamError(status, msgspec.json.encode({"type": "error", "error": error}), event)

    def aborted(self, body: bytes) -> bool:
        if b'"stop_reason":"' in body:
            return False
        try:
            message = _decode_plain(body)
        except UNREADABLE:
            return False
        return message.type == "message" and message.stop_reason is None

    def error_events(self, error: HttpError, tail: bytes) -> bytes:
        return b"event: error\ndata: %b\n\n" % anthropic_error(error)

    def last_events(self, error: StreamError) -> bytes:
        return error.event
