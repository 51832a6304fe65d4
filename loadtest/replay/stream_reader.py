"""One streamed answer as its client sees it: bytes and their time of arrival in, outcome and timings out. No IO."""

from array import array

import httptools
import msgspec

from dualmap.loadtest.replay.run_file import Outcome
from dualmap.router.apis.stream_rules import CHUNK_STREAM, StreamRules
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.requests.answer_events import FAILED, AnswerEvents

_TAIL_BYTES = 8192  # the last events of a stream lie in these: finish_reason, usage, error, [DONE]
_DETAIL_CHARS = 200


class StreamReader:
    """Feed it what the socket gives; ask `outcome()` when `complete` or when the connection has ended.

    Bodies are not decoded as they come, but for what precedes the first token: comments, roles. Of the rest only the
    last bytes are kept and looked at once, at the end.
    """

    def __init__(self, rules: StreamRules = CHUNK_STREAM) -> None:
        """rules: of the API that is asked."""
        self._parser = httptools.HttpResponseParser(self)
        self._read_at = 0.0
        self._tail = bytearray()
        self.headers: dict[bytes, bytes] = {}
        self.status: int | None = None
        self.complete = False
        self.body_bytes = 0
        self.first_token_at: float | None = None
        self.last_body_at: float | None = None
        self._events = AnswerEvents(rules, hides_usage=False)
        self.gaps_s = array("d")

    def feed(self, data: bytes, now: float) -> None:
        """Raises httptools.HttpParserError for what is not HTTP."""
        self._read_at = now
        self._parser.feed_data(data)

    # httptools calls these from feed()
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.first_token_at is None:
            self._look_for_token(body)
        elif self.last_body_at is not None and self._read_at != self.last_body_at:
            self.gaps_s.append(self._read_at - self.last_body_at)
        self.last_body_at = self._read_at
        self.body_bytes += len(body)
        self._tail += body
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]

    def _look_for_token(self, body: bytes) -> None:
        if self._events.notice is not FAILED and self._events.feed(body, False):
            self.first_token_at = self._read_at

    def on_message_complete(self) -> None:
        self.complete = True

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def outcome(self) -> tuple[Outcome, str, Usage | None]:
        """(outcome, detail, usage) of an answer that has ended or was cut off."""
        if self.status is None:
            return Outcome.BROKEN, "connection closed before a status line", None
        if self.status in (429, 503):
            return Outcome.SHED, _error_message(bytes(self._tail)), None
        if self.status != 200:
            return Outcome.HTTP_ERROR, _error_message(bytes(self._tail)), None
        return _end_of_stream(bytes(self._tail), self.complete)

    def mean_inter_token_s(self, completion_tokens: int | None) -> float | None:
        if self.first_token_at is None or self.last_body_at is None or not completion_tokens or completion_tokens < 2:
            return None
        return (self.last_body_at - self.first_token_at) / (completion_tokens - 1)


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: object = None
    type: str = ""
    code: object = None


class _Error(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Error


# Of chats and completions, of responses, of messages.
_LAST_EVENTS = (b"data: [DONE]", b"event: response.completed", b'"response.completed"', b"event: message_stop")
_ERROR_EVENTS = ("error", "response.failed")
# In a stream whose head has been sent while it waited.
_SHED_CODES = (429, 503, "429", "503", "rate_limit_error", "overloaded_error")

_event_decoder = msgspec.json.Decoder(_Event)


def _end_of_stream(tail: bytes, complete: bool) -> tuple[Outcome, str, Usage | None]:
    """Judge the last events of a stream that began with status 200."""
    usage = peek_usage(tail)
    finish_reason: str | None = None
    done = any(last in tail for last in _LAST_EVENTS)
    for line in tail.replace(b"\r\n", b"\n").split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        try:
            event = _event_decoder.decode(data)
        except msgspec.MsgspecError:
            continue  # the first event of the tail may be cut
        if event.error is not None or event.type in _ERROR_EVENTS:
            shed = _code_of(event) in _SHED_CODES
            return Outcome.SHED if shed else Outcome.BROKEN, f"error event: {_error_message(data)}", usage
        finish_reason = next((c.finish_reason for c in event.choices if c.finish_reason), finish_reason)
    if finish_reason == "abort":
        return Outcome.BROKEN, "finish_reason abort", usage
    if not done:
        return Outcome.BROKEN, "ended without [DONE]" if complete else "cut off in mid-stream", usage
    return Outcome.OK, "", usage


def _code_of(event: _Event) -> object:
    """Of an error; chats have it inside of that, messages have a type in its place."""
    if not isinstance(event.error, dict):
        return event.code
    return event.error.get("code") or event.error.get("type")


def _error_message(body: bytes) -> str:
    """The message of an OpenAI error object, or the body's first characters."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).error.message[:_DETAIL_CHARS]
    except msgspec.MsgspecError:
        return body[:_DETAIL_CHARS].decode("utf-8", "replace")
