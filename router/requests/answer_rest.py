"""The rest of a stream on its way to the client, from another instance than the one that began it."""

import msgspec

from dualmap.router.apis.chunk_stream import DONE, DONE_DATA
from dualmap.router.apis.rest_chunks import RestChunks
from dualmap.router.apis.stream_event import (
    ABORTED,
    ERROR,
    PIECE,
    USAGE,
    StreamError,
    is_comment,
    read_event,
    whole_events,
)
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.apis.token_ids import MAX_EVENT_BYTES
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.requests.answer_events import FAILED, Notice


class AnswerRest:
    """See Answer. own_usage: of the rest alone, as its instance counted it. is_over: the client has all of it, whatever
    its instance may still send."""

    __slots__ = ("_chunks", "_held", "error", "is_over", "notice", "own_usage", "usage_event")

    def __init__(self, chunks: RestChunks) -> None:
        self.notice: Notice | None = None
        self.error: StreamError | None = None
        self.usage_event = b""
        self.own_usage: Usage | None = None
        self.is_over = False
        self._chunks = chunks
        self._held = b""

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed."""
        events, self._held = whole_events(self._held + body)
        shown: list[bytes] = []
        for event in events:
            if self.notice is None and not self.is_over and not is_comment(event):
                shown.append(self._shown(event))
                if self._chunks.is_stopped:
                    self.is_over = True
                    self.usage_event, usage = self._chunks.usage()
                    shown += (usage, DONE)
        if (complete and not self._chunks.finished) or len(self._held) > MAX_EVENT_BYTES:
            self.notice = FAILED
        return b"".join(shown)

    def _shown(self, event: bytes) -> bytes:
        """Nothing of an event with which the answer fails."""
        if read_event(event)[1] == DONE_DATA:
            return DONE if self._chunks.finished else b""
        meaning = CHUNK_STREAM.meaning(event)
        try:
            if meaning is USAGE:
                self.own_usage = peek_usage(event)
                self.usage_event, shown = self._chunks.usage(event)
                return shown
            if meaning is PIECE:
                return self._chunks.piece(event)
        except (msgspec.MsgspecError, IndexError):
            meaning = ABORTED  # it is no chunk of a completion
        if meaning is ABORTED or meaning is ERROR:
            self.notice = FAILED
            self.error = CHUNK_STREAM.error(event) if meaning is ERROR else None
        return b""
