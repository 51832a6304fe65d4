"""A stream's server-sent events on their way to the client: each whole and at once, but for those that concern the
gateway.

Text of an answer never passes for one of these: the quotes inside JSON strings are escaped.
"""

import re
from enum import Enum, auto
from typing import Protocol

from dualmap.router.apis.stream_event import ABORTED, EMPTY, ERROR, PIECE, USAGE, Meaning, StreamError, is_comment
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.apis.token_ids import HIDDEN, IDS, TokenIds

MAX_HELD_BYTES = 256 * 1024  # far above the event of a token; what grows larger is not kept in memory

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_USAGE = b'"prompt_tokens"'  # of a chunk with usage; those without say null, if anything
_COLON = ord(":")
_NO_IDS = IDS[:-1] + HIDDEN
_NOT_YET: tuple[bytes, ...] = ()  # no event begins with any of these


class Notice(Enum):
    FAILED = auto()  # the instance ended the answer by itself
    EMPTY = auto()  # what can be relayed holds nothing of the answer


FAILED, NOTHING_OF_IT = Notice


class Answer(Protocol):
    """What of an answer's body can go to the client, and when. See AnswerEvents."""

    notice: Notice | None

    @property
    def error(self) -> StreamError | None: ...

    @property
    def usage_event(self) -> bytes: ...

    def feed(self, body: bytes, complete: bool) -> bytes: ...


class AnswerEvents:
    """notice: of what was fed last; who reads it resets it, but after a failure nothing is fed. error: what the
    instance said when it failed; None where it said nothing. usage_event: the one that was hidden, else empty."""

    __slots__ = (
        "_alarm",
        "_held",
        "_hides_usage",
        "_ids",
        "_ids_end",
        "_ids_start",
        "_no_ids",
        "_opened",
        "_other_alarm",
        "_prelude",
        "_rules",
        "_text_end",
        "_text_start",
        "_third_alarm",
        "error",
        "notice",
        "usage_event",
    )

    def __init__(self, rules: StreamRules, hides_usage: bool, ids: TokenIds | None = None) -> None:
        """hides_usage: the final event with `usage` was asked for by the gateway alone. ids: keeps what the events tell
        of token ids."""
        self.notice: Notice | None = None
        self.error: StreamError | None = None
        self.usage_event = b""
        self._rules = rules
        self._hides_usage = hides_usage
        self._alarm, self._other_alarm = rules.alarms
        self._third_alarm = _USAGE if hides_usage else rules.noise
        self._held = b""  # the beginning of an event
        self._prelude = b""  # events that precede the first token
        self._opened = False  # there has been a piece of the answer
        # What stands around the text of a token in this stream.
        self._text_start: bytes | tuple[bytes, ...] = _NOT_YET
        self._text_end: bytes | tuple[bytes, ...] = _NOT_YET
        self._ids = ids
        # What ends an event with a token's id; what stands before the id, from the end of the text; both without an id.
        self._ids_end: bytes | tuple[bytes, ...] = _NOT_YET
        self._ids_start = self._no_ids = b""

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed.

        Most reads are one more token, or whole events of no concern: nothing is parsed to see it, 0.2 us or 0.6 us; to
        keep a token's id takes 2 us.
        """
        ids = self._ids
        if ids is not None:
            if body.endswith(self._ids_end) and body.startswith(self._text_start) and not self._held:
                at = body.rfind(self._ids_start)
                if at > len(self._text_start) and body.find(b'"', len(self._text_start), at) < 0:
                    told = body[at + len(self._ids_start) : 1 - len(self._ids_end)]
                    if b'"' not in told:
                        ids.answer += told
                        ids.seen_bytes = len(ids.answer)
                        return body[:at] + self._no_ids
            body = ids.take(body, complete)
            if ids.tells is False:
                self._ids = None
        if body.startswith(self._text_start) and body.endswith(self._text_end) and not self._held:
            if body.find(b'"', len(self._text_start), -len(self._text_end)) < 0:
                return body
        elif self._held:
            body = self._held + body
            self._held = b""
        if (
            self._opened
            and body.endswith(b"\n\n")
            and self._alarm not in body
            and self._other_alarm not in body
            and (self._third_alarm is None or self._third_alarm not in body)
            and body[0] != _COLON
        ):
            return body
        return self._sift(body, complete)

    def _sift(self, body: bytes, complete: bool) -> bytes:
        relayed: list[bytes] = []
        pieces = start = 0
        ends = [match.end() for match in _EVENT_END.finditer(body)]
        if complete:
            ends.append(len(body))
        for end in ends:
            event = body[start:end]
            start = end
            meaning = self._meaning(event)
            if meaning is PIECE:
                pieces += 1
                if not self._opened:
                    self._open(event)
                    relayed.insert(0, self._prelude)
            elif meaning is ABORTED or meaning is ERROR:
                self.notice = FAILED
                self.error = self._rules.error(event) if meaning is ERROR else None
                return b"".join(relayed) if self._opened else b""
            elif meaning is USAGE and self._hides_usage:
                self.usage_event = event
                continue
            elif not self._opened:
                if meaning is EMPTY:  # a comment before the first token is for nobody
                    continue
                self._show_forced_usage(event)
            relayed.append(event)
        if relayed and not pieces and self._opened:
            self.notice = NOTHING_OF_IT
        return self._relayed(b"".join(relayed), body[start:], complete)

    def _meaning(self, event: bytes) -> Meaning:
        if is_comment(event):
            return EMPTY
        if (
            self._opened
            and self._alarm not in event
            and self._other_alarm not in event
            and (self._third_alarm is None or self._third_alarm not in event)
        ):
            return PIECE
        return self._rules.meaning(event)

    def _open(self, event: bytes) -> None:
        """event: the first that is a piece of the answer."""
        self._opened = True
        self._show_forced_usage(event)
        if token := self._rules.token.fullmatch(event):
            self._text_start, self._text_end = token.groups()
            before, hidden, behind = self._text_end.partition(_NO_IDS)
            if hidden:
                self._ids_start, self._ids_end, self._no_ids = before + IDS, b"]" + behind, self._text_end
                if self._ids is not None:
                    self._ids.reasons_first = not self._text_start.endswith(self._ids.text)

    def _show_forced_usage(self, event: bytes) -> None:
        """An instance that tells the usage with its first chunk does so unasked: its operator wants clients to have
        it."""
        if self._hides_usage and _USAGE in event:
            self._hides_usage = False
            self._third_alarm = self._rules.noise

    def _relayed(self, whole: bytes, cut: bytes, complete: bool) -> bytes:
        """whole, cut: the events and the beginning of one that can go to the client."""
        if self._opened:
            self._prelude = b""
            if complete or len(cut) > MAX_HELD_BYTES:
                return whole + cut
            self._held = cut
            return whole
        prelude = self._prelude + whole
        if complete or len(prelude) + len(cut) > MAX_HELD_BYTES:
            self._opened = True
            self._prelude = b""
            return prelude + cut
        self._prelude, self._held = prelude, cut
        return b""
