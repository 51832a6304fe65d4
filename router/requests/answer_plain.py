"""A plain answer on its way to the client: held until it is complete, or relayed as it comes."""

from http import HTTPStatus

from dualmap.router.apis.stream_event import StreamError, read_error
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.openai_errors import HttpError
from dualmap.router.requests.answer_events import FAILED, Notice
from dualmap.router.requests.answer_spool import Spool, SpoolRoom

# In memory: a chat's longest answers are some 100 KiB. Such an answer comes all at once: holding it delays nothing, and
# an instance that dies in its midst costs nothing.
MAX_HELD_BYTES = 1024 * 1024
MAX_JUDGED_BYTES = 16 * 1024 * 1024  # of an answer on disk, which is read once more to see whether it was aborted
NO_STREAM = HttpError(HTTPStatus.BAD_GATEWAY, "BadGatewayError", "The instance's answer is no stream of events.")
MAX_ERROR_BYTES = 64 * 1024  # read of an answer that is no stream, for what it says


class HeldAnswer:
    """notice: FAILED: the instance aborted it. spool: has what follows the piece that was relayed, once the answer is
    complete."""

    __slots__ = ("_bytes", "_pieces", "_room", "_rules", "_whole_bytes", "notice", "spool")
    error: StreamError | None = None

    def __init__(self, rules: StreamRules, room: SpoolRoom, whole_bytes: int = 0) -> None:
        """whole_bytes: that it will have; 0: not known."""
        self.notice: Notice | None = None
        self.spool: Spool | None = None
        self._rules = rules
        self._room = room
        self._pieces: list[bytes] | None = []  # None: it is too long to be held
        self._bytes = 0
        self._whole_bytes = whole_bytes

    @property
    def usage_event(self) -> bytes:
        """Empty where it is part of what is relayed."""
        return b"" if self.spool is None else self.spool.tail()

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed."""
        if self._pieces is None:
            return body
        self._bytes += len(body)
        if self._bytes <= MAX_HELD_BYTES:
            self._pieces.append(body)
            if not complete:
                return b""
            whole = b"".join(self._pieces)
            self._pieces = None
            if self._rules.aborted(whole):
                self.notice = FAILED
            return whole
        return self._feed_spool(body, complete, self._pieces)

    def _feed_spool(self, body: bytes, complete: bool, held: list[bytes]) -> bytes:
        """held: what is not on disk yet."""
        if self.spool is None and (spool := self._room.spool(held, self._whole_bytes)) is not None:
            self.spool = spool
            held.clear()
        if self.spool is None or not self.spool.add(body):
            whole = b"".join((b"" if self.spool is None else self.spool.whole(), *held, body))
            self._pieces = None
            self.let_go()
            return whole
        if not complete:
            return b""
        if self.spool.size_bytes <= MAX_JUDGED_BYTES and self._rules.aborted(self.spool.whole()):
            self.notice = FAILED
            return b""
        return self.spool.next_piece()

    def let_go(self) -> None:
        """Nobody wants the rest."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None


class PassedAnswer:
    """Relayed as it comes."""

    __slots__ = ()
    notice: Notice | None = None
    usage_event = b""
    error: StreamError | None = None

    def feed(self, body: bytes, complete: bool) -> bytes:
        return body


class AbortedAnswer(PassedAnswer):
    """It has come whole, and its instance aborted it."""

    __slots__ = ()
    notice: Notice | None = FAILED


class AnswerAsEvents(PassedAnswer):
    """What is no stream, and yet must end one: its client has been sent the head of a stream while it waited."""

    __slots__ = ("_error", "_held", "_rules", "_status")

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
ABORTED = AbortedAnswer()
ENCODED = EncodedAnswer()


def plain_answer(
    head: AnswerHead, rules: StreamRules, room: SpoolRoom, whole: bytes | None = None
) -> HeldAnswer | PassedAnswer:
    """Held, whatever its length, where it is JSON; what is played or shown as it comes only where it is short. whole:
    all of its body, where that has come at once and so need not be held."""
    length = head.content_length
    is_short = length is not None and length <= MAX_HELD_BYTES
    if not is_short and not (head.json and (length is None or room.has(length))):
        return PASSED
    if whole is not None and len(whole) <= MAX_HELD_BYTES:
        return ABORTED if rules.aborted(whole) else PASSED
    return HeldAnswer(rules, room, length or 0)
