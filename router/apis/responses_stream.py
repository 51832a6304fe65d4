"""Streams of OpenAI's responses: events with names, and numbered."""

import re
from typing import Any

import msgspec
from msgspec import Raw

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

PRELUDES = (".created", ".queued", ".in_progress", ".added", ".searching", ".interpreting", "ping", "keepalive")
OWN_ENDINGS = ("cancelled", "failed")
RATE_LIMITED = "rate_limit_exceeded"
CLIENTS_FAULTS = ("invalid", "image", "unsupported", "empty", "failed_to_download", "context_length")  # a code's start
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d{1,9})\b')


class _Usage(msgspec.Struct, gc=False):
    output_tokens: int | None = None


class _Response(msgspec.Struct, gc=False):
    object: str = ""
    status: str | None = None
    output: list[Raw] | None = None
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    response: _Response | None = None
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_plain = msgspec.json.Decoder(_Response).decode


class ResponsesStream:
    """See StreamRules."""

    alarms = (b"error", b'"response"')
    noise = None
    pauses = True  # for tools that the server calls
    token = re.compile(rb"(?!)()()")  # each event has its number
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
        if kind == "error" or (not kind and content.error) or kind == "response.failed":
            return PIECE if self.error(event).status in CLIENT_ERRORS else ERROR
        if content.response is not None and kind.endswith((".completed", ".incomplete", ".cancelled")):
            return ABORTED if _ended_by_itself(content.response) else PIECE
        return PRELUDE if kind.endswith(PRELUDES) else PIECE

    def error(self, event: bytes) -> StreamError:
        _, data = read_event(event)
        said = _said(data)
        status = error_status(said.get("code")) or _status(str(said.get("code") or said.get("type")))
        fields = {name: said.get(name) for name in ("message", "type", "param", "code")}
        if fields["type"] is None:
            fields["type"] = "invalid_request_error" if status in CLIENT_ERRORS else "server_error"
        return StreamError(status, msgspec.json.encode({"error": fields}), event)

    def aborted(self, body: bytes) -> bool:
        try:
            response = _decode_plain(body)
        except UNREADABLE:
            return False
        return response.object == "response" and _ended_by_itself(response)

    def error_events(self, error: HttpError, tail: bytes) -> bytes:
        numbers = _NUMBER.findall(tail)
        event = {
            "type": "error",
            "code": str(int(error.status)),
            "message": error.message,
            "param": error.param,
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
        }
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(event)

    def last_events(self, error: StreamError) -> bytes:
        return error.event


def _said(data: bytes) -> dict[str, Any]:
    try:
        content = _decode(data)
    except UNREADABLE:
        return said_in_words(data)
    own = {"message": content.message, "param": content.param, "code": content.code}
    said = content.error or (content.response and content.response.error) or own
    return said if isinstance(said, dict) else {"message": said}


def _ended_by_itself(response: _Response) -> bool:
    """vLLM calls a response completed, too, that it aborted before the first token."""
    if response.status == "completed":
        return not response.output and response.usage is not None and response.usage.output_tokens == 0
    return response.status in OWN_ENDINGS


def _status(code: str) -> int:
    if code == RATE_LIMITED:
        return 429
    return 400 if code.startswith(CLIENTS_FAULTS) else UNKNOWN_ERROR_STATUS
