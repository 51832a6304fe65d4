"""Ids of what instances keep for their clients (responses, conversations): where a request names one, and where an
answer does that made one."""

import re
from urllib.parse import unquote

import msgspec

MAX_STATE_ID = 256  # characters; servers make some 40
MAX_SOUGHT_BYTES = 256 * 1024  # of an answer; the first event of a stream repeats its request's tools

_COLLECTIONS = ("/v1/responses/", "/v1/conversations/")
_SCALARS = (
    rb'(?:\s*+"(?!id")\w++"\s*+:\s*+(?:"[^"\\]*+"|[\w.+-]++)\s*+,)*+'  # of the fields before the one that is sought
)
_ID = rb'\s*+"id"\s*+:\s*+"([\w.:-]{1,256}+)"'
_PLAIN = re.compile(rb"\s*+\{" + _SCALARS + _ID)
_EVENT = re.compile(rb"^data:\s*+\{" + _SCALARS + rb'\s*+"response"\s*+:\s*+\{' + _SCALARS + _ID, re.MULTILINE)


class _Made(msgspec.Struct, gc=False):
    id: str = ""


class _Created(msgspec.Struct, gc=False):
    response: _Made | None = None


_decode_made = msgspec.json.Decoder(_Made).decode
_decode_event = msgspec.json.Decoder(_Created).decode


def path_state_id(path: str) -> str:
    """What the path is about; empty where it is about none."""
    for collection in _COLLECTIONS:
        if path.startswith(collection):
            return unquote(path[len(collection) :].partition("/")[0])
    return ""


class StateSeeker:
    """Looks for the id in an answer as it comes. seeks: it has not been found, and may still come."""

    __slots__ = ("_pattern", "_seen", "seeks")

    def __init__(self, event_stream: bool) -> None:
        self.seeks = True
        self._seen = b""
        self._pattern = _EVENT if event_stream else _PLAIN

    def feed(self, body: bytes, complete: bool) -> str:
        """Take what has come, the last of it if complete; returns the id, or nothing where it is not there."""
        if self._seen:
            body = self._seen + body
        found = self._find(body, complete)
        if found or complete or len(body) > MAX_SOUGHT_BYTES or self._has_event(body):
            self.seeks = False
            self._seen = b""
        else:
            self._seen = body
        return found

    def _has_event(self, body: bytes) -> bool:
        """Whether there is a whole one. Comments may come before the first one."""
        start = body.find(b"data:") if self._pattern is _EVENT else -1
        return start >= 0 and (body.find(b"\n\n", start) >= 0 or body.find(b"\r\n\r\n", start) >= 0)

    def _find(self, body: bytes, complete: bool) -> str:
        match = _EVENT.search(body) if self._pattern is _EVENT else _PLAIN.match(body)
        if match is not None:
            return match[1].decode()
        made: _Made | None = None  # a field that is no scalar comes before it
        try:
            if self._pattern is _PLAIN:
                made = _decode_made(body) if complete else None
            elif self._has_event(body):
                start = body.find(b"data:")
                made = _decode_event(body[start + 5 :].splitlines()[0]).response
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        return made.id if made is not None and len(made.id) <= MAX_STATE_ID else ""
