"""A stream's server-sent events on their way to the client: each whole and at once, but for those that concern the
gateway.

Text of an answer never passes for one of these: the quotes inside JSON strings are escaped.
"""

from enum import Enum, auto
from typing import Protocol

from dualmap.router.apis.stream_event import (
    ABORTED,
    EMPTY,
    ERROR,
    PIECE,
    USAGE,
    Meaning,
    StreamError,
    is_comment,
    whole_events,
)
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.apis.token_shape import TokenShape, token_shape

MAX_HELD_BYTES = 256 * 1024  # far above the event of a token; what grows larger is not kept in memory

MOST_LEARNINGS = 8  # of what tokens look like: reasoning, then content
_USAGE = b'"prompt_tokens"'  # of a chunk with usage; those without say null, if anything
_COLON = ord(":")


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
    instance said when it failed; None where it said nothing. usage_event: the one that was hidden, else empty. tokens:
    what may take the next event in place of `feed`, where nothing is held; None: nothing may."""

    __slots__ = (
        "_alarm",
        "_held",
        "_hides_usage",
        "_ids",
        "_learnings",
        "_opened",
        "_other_alarm",
        "_prelude",
        "_rules",
        "_shape",
        "_third_alarm",
        "error",
        "notice",
        "tokens",
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
        self._shape: TokenShape | None = None
        self._learnings = MOST_LEARNINGS  # that are left
        self._ids = ids
        self.tokens: TokenShape | None = None

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed.

        Most reads are one more token, or several: nothing is parsed to see it.
        """
        tokens = self.tokens
        if tokens is None:
            return self._read(body, complete)
        token = tokens.take(body)
        if token is not None:
            return token
        events, cut = ([], body) if self._ids is None else whole_events(body)
        if len(events) > 1:
            return self._several(tokens, events, cut, complete)
        shown = self._read(body, complete)
        if self._learnings and self.tokens is not None and self.notice is None:
            self._learnings -= 1
            self._learn(shown)
            self.tokens = self._shape
        return shown

    def _several(self, tokens: TokenShape, events: list[bytes], cut: bytes, complete: bool) -> bytes:
        """The same of several events and the beginning of one."""
        shown: list[bytes] = []
        for event in events:
            token = tokens.take(event)
            if token is None:
                break
            shown.append(token)
        rest = b"".join(events[len(shown) :]) + cut
        if rest:
            tokens_came = bool(shown)
            shown.append(self._read(rest, complete))
            if tokens_came and self.notice is NOTHING_OF_IT:
                self.notice = None
        return b"".join(shown)

    def _read(self, body: bytes, complete: bool) -> bytes:
        """The same of whatever it is."""
        ids = self._ids
        if ids is not None:
            body = ids.take(body, complete)
            if ids.tells is False:
                ids = self._ids = None
        if self._held:
            body = self._held + body
            self._held = b""
        shown = self._relayable(body, complete)
        self.tokens = None if self._held or (ids is not None and ids.is_amid) else self._shape
        return shown

    def _relayable(self, body: bytes, complete: bool) -> bytes:
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
        pieces = 0
        events, cut = whole_events(body)
        if complete:
            events.append(cut)
            cut = b""
        for event in events:
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
        return self._relayed(b"".join(relayed), cut, complete)

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
        self._learn(event)

    def _learn(self, event: bytes) -> None:
        """Take the next tokens for like this one, if the event is one."""
        if token := self._rules.token.fullmatch(event):
            start, behind = token.groups()
            ids = self._ids
            shape = token_shape(start, behind, ids)
            if shape is not None and (ids is None or ids.expect(start)):
                self._shape = shape

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
