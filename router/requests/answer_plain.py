"""A plain answer on its way to the client: held until it is complete, or relayed as it comes."""

from http import HTTPStatus

from dualmap.router.apis.stream_event import StreamError, read_error
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.http.openai_errors import HttpError
from dualmap.router.requests.answer_events import FAILED, Notice

# A chat's longest answers are some 100 KiB, and such an answer comes all at once: holding it delays nothing, and an
# instance that dies in its midst costs nothing. Larger ones (batches of embeddings, audio) would be kept for too many
# clients at once.
MAX_HELD_BYTES = 1024 * 1024
NO_STREAM = HttpError(HTTPStatus.BAD_GATEWAY, "BadGatewayError", "The instance's answer is no stream of events.")
MAX_ERROR_BYTES = 64 * 1024  # read of an answer that is no stream, for what it says


class HeldAnswer:
    """notice: FAILED: the instance aborted it."""

    __slots__ = ("_bytes", "_pieces", "_rules", "notice")
    usage_event = b""  # it is part of the whole
    error: StreamError | None = None

    def __init__(self, rules: StreamRules) -> None:
        self.notice: Notice | None = None
        self._rules = rules
        self._pieces: list[bytes] | None = []  # None: it has become too long to be held
        self._bytes = 0

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed."""
        if self._pieces is None:
            return body
        self._pieces.append(body)
        self._bytes += len(body)
        is_held = self._bytes <= MAX_HELD_BYTES
        if is_held and not complete:
            return b""
        whole = b"".join(self._pieces)
        self._pieces = None
        if is_held and self._rules.aborted(whole):
            self.notice = FAILED
        return whole


class PassedAnswer:
    """Relayed as it comes."""

    __slots__ = ()
    notice: Notice | None = None
    usage_event = b""
    error: StreamError | None = None

    def feed(self, body: bytes, complete: bool) -> bytes:
        return body


class AnswerAsEvents:
    """What is no stream, and yet must end one: its client has been sent the head of a stream while it waited."""

    __slots__ = ("_error", "_held", "_rules", "_status")
    notice: Notice | None = None
    usage_event = b""
    error: StreamError | None = None

    def __init__(self, rules: StreamRules, status: int, error: HttpError | None) -> None:
        """error: what the events say; None: what the answer, of that status, does."""
        self._rules = rules
        self._status = status
        self._error = error
        self._held = b""

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Returns error events once it is complete."""
        if len(self._held) < MAX_ERROR_BYTES:
            self._held += body
        if not complete:
            return b""
        return self._rules.error_events(self._error or read_error(self._status, self._held), b"")


class EncodedAnswer(PassedAnswer):
    """Compressed, though that was not asked for: nothing can be read of it."""

    __slots__ = ()
    usage_event = b"{}"


PASSED = PassedAnswer()
ENCODED = EncodedAnswer()
