"""One server-sent event, and what it can mean to a gateway that relays it."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import msgspec

from dualmap.router.http.openai_errors import HttpError

CLIENT_ERRORS = frozenset(range(400, 500)) - {429}  # not this one: an instance that is full, as another may not be
ERRORS = range(400, 600)
UNKNOWN_ERROR_STATUS = 500
ERROR_NAME = b"error"  # of an event, in any API
_EVENT_END = re.compile(rb"\r?\n\r?\n")
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Meaning(Enum):
    EMPTY = auto()  # a comment: no event to a client
    PRELUDE = auto()  # comes before the first token, and is none
    PIECE = auto()  # of the answer, or its end
    USAGE = auto()  # `usage` and nothing else
    ABORTED = auto()  # the instance ends the answer by itself
    ERROR = auto()  # the instance says what went wrong, and that is not the client's fault


# A name is found five times as fast as the attribute of an enum.
EMPTY, PRELUDE, PIECE, USAGE, ABORTED, ERROR = Meaning


@dataclass(frozen=True, slots=True)
class StreamError:
    """What an instance's error event says. body: of the plain answer that it stands for, JSON. event: as it came."""

    status: int
    body: bytes
    event: bytes


def whole_events(body: bytes) -> tuple[list[bytes], bytes]:
    """The events, and the beginning of one, possibly empty, behind them."""
    if b"\r" in body:
        ends = [match.end() for match in _EVENT_END.finditer(body)]
        return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)], body[ends[-1] if ends else 0 :]
    *events, cut = body.split(b"\n\n")
    return [event + b"\n\n" for event in events], cut


def is_comment(event: bytes) -> bool:
    """Whether it has lines of comment alone, or no line."""
    if event and event[0] not in b":\r\n":  # as most are
        return False
    return all(not line or line.startswith(b":") for line in event.splitlines())


def read_event(event: bytes) -> tuple[bytes, bytes]:
    """Its name, empty where it has none, and its data, the lines joined."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:  # as most are
        return b"", event[6:-2]
    name = b""
    data = []
    for line in event.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(data)


def error_status(code: Any) -> int | None:
    """The HTTP status that an error's code stands for, as a number or in digits; None where it is none."""
    if isinstance(code, str) and len(code) == 3 and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and code in ERRORS else None


def said_in_words(data: bytes) -> dict[str, Any]:
    """An error that is none of its API's objects."""
    try:
        said = msgspec.json.decode(data)
    except UNREADABLE:
        said = data.decode("utf-8", "replace")
    return {"message": said if isinstance(said, str) else str(said)}


def read_error(status: int, body: bytes) -> HttpError:
    """What a plain error answer says, in any API's shape or as text."""
    try:
        content = msgspec.json.decode(body)
    except UNREADABLE:
        content = None
    error = content.get("error", content) if isinstance(content, dict) else content
    fields: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    message, kind, param = (fields.get(name) for name in ("message", "type", "param"))
    unknown = HTTPStatus.BAD_REQUEST if status in CLIENT_ERRORS else HTTPStatus.BAD_GATEWAY
    known = HTTPStatus(status) if status in set(HTTPStatus) else unknown
    return HttpError(
        known,
        kind if isinstance(kind, str) else known.phrase.replace(" ", "") + "Error",
        message if isinstance(message, str) and message else f"The instance answered with HTTP {status}.",
        param if isinstance(param, str) else None,
    )
