"""A stream that another instance makes once more, on its way to a client who has part of it; and what is kept of a
stream, so that it can be compared."""

from dualmap.router.apis.replayed import DiffersError, Replayed
from dualmap.router.apis.stream_event import ABORTED, EMPTY, ERROR, USAGE, StreamError, is_comment, whole_events
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.apis.token_ids import MAX_EVENT_BYTES, TokenIds
from dualmap.router.apis.token_shape import TokenShape
from dualmap.router.requests.answer_events import FAILED, AnswerEvents, Notice

# Of what the client has: about two thousand tokens. To make more of them again takes an instance longer than a client
# would wait, and longer than others who wait for that instance should.
MOST_RECORDED_BYTES = 512 * 1024


class Record:
    """What the client has of a stream. events: None: it is more than is kept."""

    __slots__ = ("_bytes", "events")

    def __init__(self) -> None:
        self.events: list[bytes] | None = []
        self._bytes = 0

    def add(self, shown: bytes) -> None:
        if self.events is None:
            return
        self.events.append(shown)
        self._bytes += len(shown)
        if self._bytes > MOST_RECORDED_BYTES:
            self.events = None

    def noted_in(self, replayed: Replayed) -> bool:
        """Tell of all that the client has; returns whether that could be read."""
        if self.events is None:
            return False
        try:
            for event in whole_events(b"".join(self.events))[0]:
                replayed.note(event)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True


class RecordedEvents(AnswerEvents):
    """A stream that may have to be made once more."""

    __slots__ = ("record",)

    def __init__(self, rules: StreamRules, hides_usage: bool, ids: TokenIds | None) -> None:
        super().__init__(rules, hides_usage, ids)
        self.record = Record()

    def _read(self, body: bytes, complete: bool) -> bytes:
        shown = super()._read(body, complete)
        if shown:
            self.record.add(shown)
        return shown

    def _learn(self, event: bytes) -> None:
        super()._learn(event)
        if self._shape is not None and not isinstance(self._shape, RecordedShape):
            self._shape = RecordedShape(self._shape, self.record)


class RecordedShape(TokenShape):
    """See TokenShape."""

    __slots__ = ("_record", "_shape")

    def __init__(self, shape: TokenShape, record: Record) -> None:
        self._shape = shape
        self._record = record

    def take(self, event: bytes) -> bytes | None:
        shown = self._shape.take(event)
        if shown is not None:
            self._record.add(shown)
        return shown


class AnswerReplay:
    """See Answer. differs: it is another answer than the one that the client has part of."""

    __slots__ = ("_held", "_hides_usage", "_replayed", "_rules", "differs", "error", "notice", "record", "usage_event")

    def __init__(self, rules: StreamRules, replayed: Replayed, record: Record, hides_usage: bool) -> None:
        """record: was noted in replayed."""
        self.notice: Notice | None = None
        self.error: StreamError | None = None
        self.usage_event = b""
        self.differs = False
        self.record = record
        self._rules = rules
        self._replayed = replayed
        self._hides_usage = hides_usage
        self._held = b""

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed."""
        events, self._held = whole_events(self._held + body)
        shown = b"".join(self._shown(event) for event in events)
        if (complete and not self._replayed.is_over) or len(self._held) > MAX_EVENT_BYTES:
            self.notice = FAILED
        if shown:
            self.record.add(shown)
        return shown

    def _shown(self, event: bytes) -> bytes:
        """Nothing of an event with which the answer fails."""
        if self.notice is not None or is_comment(event):
            return b""
        meaning = self._rules.meaning(event)
        if meaning is ABORTED or meaning is ERROR:
            self.notice = FAILED
            self.error = self._rules.error(event) if meaning is ERROR else None
            return b""
        if meaning is EMPTY:
            return b""
        try:
            shown = self._replayed.show(event)
            if meaning is USAGE:
                self.usage_event = shown or event
            return b"" if meaning is USAGE and self._hides_usage else shown
        except (DiffersError, ValueError, KeyError, TypeError, AttributeError):
            self.differs = True
            self.notice = FAILED
            return b""
