"""Anthropic's messages that are made again: see replayed.py. The id stands in the first event alone."""

from typing import Any

import msgspec

from dualmap.router.apis.replayed import DiffersError, Texts, read_typed_event

_DELTA = "content_block_delta"
_TEXTS = ("text", "thinking", "partial_json", "signature")
_LAST = "message_stop"


class ReplayedMessage:
    """See Replayed."""

    def __init__(self) -> None:
        self.is_over = False
        self._texts = Texts()
        self._has: set[tuple[str, int]] = set()  # other events, by type and content block

    def note(self, event: bytes) -> None:
        content = read_typed_event(event)
        kind, block = content["type"], content.get("index", 0)
        if kind == _DELTA:
            name, text = _text_of(content["delta"])
            self._texts.note(block, name, text)
        else:
            self._has.add((kind, block))

    def show(self, event: bytes) -> bytes:
        content = read_typed_event(event)
        kind, block = content["type"], content.get("index", 0)
        self.is_over |= kind == _LAST
        if kind != _DELTA:
            if kind == "content_block_stop":
                self._texts.end(block)
            return b"" if (kind, block) in self._has else event
        name, text = _text_of(content["delta"])
        rest = self._texts.rest(block, name, text)
        if rest == text:
            if ("content_block_stop", block) in self._has and text:
                raise DiffersError
            return event
        if not rest:
            return b""
        content["delta"][name] = rest
        return b"event: content_block_delta\ndata: %b\n\n" % msgspec.json.encode(content)


def _text_of(delta: dict[str, Any]) -> tuple[str, str]:
    """And its field. Raises ValueError."""
    for name in _TEXTS:
        if isinstance(text := delta.get(name), str):
            return name, text
    raise ValueError
