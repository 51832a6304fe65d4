"""Events of tokens in one stream: alike but for their texts and ids, so that one more is known without being parsed.

What follows a text begins with the quote that ends it. Inside a text, each quote has a backslash in front, and there
are no line breaks; so an event that is otherwise as another one is has its text where that has it.
"""

import re

from dualmap.router.apis.token_ids import HIDDEN, TokenIds

_TOLD = re.compile(rb'(".*"token_ids":)(null|\[[\d,]+\])(.*)', re.DOTALL)
_DIGITS = b"0123456789,"


class TokenShape:
    """What stands around the text of a token."""

    __slots__ = ()

    def take(self, event: bytes) -> bytes | None:
        """Return an event as the client gets it, its ids noted, if it is one more token; else None, and nothing has
        happened."""
        raise NotImplementedError


class PlainShape(TokenShape):
    """See TokenShape. Such events tell no ids that are noted."""

    __slots__ = ("_behind", "_start")

    def __init__(self, start: bytes, behind: bytes) -> None:
        """behind: from the quote on that ends the text."""
        self._start = start
        self._behind = behind[1:]

    def take(self, event: bytes) -> bytes | None:
        tail = event.removeprefix(self._start)
        if len(tail) == len(event):
            return None
        text, quote, behind = tail.partition(b'"')
        if behind == self._behind:
            return event
        if text[-1:] != b"\\":
            return None
        text, found, rest = tail.partition(quote + self._behind)
        return event if found and not rest and _escapes_all(text) else None


class ShapeWithIds(TokenShape):
    """See TokenShape. Such events tell ids, one or more. Machine code does startswith and endswith at once; another
    method of bytes costs as much as four slices."""

    __slots__ = (
        "_before_bytes",
        "_before_ids",
        "_end",
        "_end_bytes",
        "_ids",
        "_shown_behind",
        "_start",
        "_start_bytes",
    )

    def __init__(self, start: bytes, before_ids: bytes, end: bytes, ids: TokenIds) -> None:
        """before_ids: from the quote on that ends the text. end: what follows the ids' bracket."""
        self._start = start
        self._before_ids = before_ids[1:] + b"["
        self._end = b"]" + end
        self._start_bytes, self._before_bytes, self._end_bytes = len(start), len(self._before_ids), len(self._end)
        self._ids = ids
        self._shown_behind = before_ids + HIDDEN + end if ids.hides else b""

    def take(self, event: bytes) -> bytes | None:
        begins, middle, ends = self._start_bytes, self._before_bytes, self._end_bytes
        if not (event.startswith(self._start) and event.endswith(self._end)):
            return None
        text, quote, behind = event[begins:].partition(b'"')
        if not behind.startswith(self._before_ids):
            if not text.endswith(b"\\"):
                return None
            text, _, behind = event[begins:].partition(quote + self._before_ids)
            if not _escapes_all(text):
                return None
            middle = 0
        if not text or len(behind) < middle + ends:
            return None
        told = behind[middle:-ends]
        if not (told.isdigit() or (told and not told.lstrip(_DIGITS))):
            return None
        ids = self._ids
        ids.answer += behind[middle : 1 - ends]
        ids.seen_bytes = len(ids.answer)
        return self._start + text + self._shown_behind if self._shown_behind else event


def token_shape(start: bytes, behind: bytes, ids: TokenIds | None) -> TokenShape | None:
    """The shape of a stream's tokens, by its first one as the client gets it; None where each has to be read.

    start: what stands before its text. behind: from the quote on that ends it.
    """
    if ids is None:
        return PlainShape(start, behind)
    told = _TOLD.fullmatch(behind)
    return None if told is None else ShapeWithIds(start, told[1], told[3], ids)


def _escapes_all(text: bytes) -> bool:
    """Whether all quotes have a backslash in front."""
    return text.count(b'"') == text.count(b'\\"')
