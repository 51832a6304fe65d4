"""The token ids of a streamed answer: kept, so that another instance can go on with the answer, and taken off its
chunks where the client has not asked for them.

Chunks are read as vLLM spells them, compact; ids of any other spelling stay where they are, and are not known. Ids stay
text, as they came: a prompt's are sent on as they are, and most answers never need theirs.
"""

import re

ASK_FOR_IDS = b'"return_token_ids":true,'  # in front of a request's fields, where the client's own wins over it
MAX_EVENT_BYTES = 16 << 20  # the ids of a prompt of two million tokens

_IDS = b'"token_ids":['
_PROMPT_IDS = b'"prompt_token_ids":['
_HIDDEN = b"null"  # what vLLM sends in their place where nobody asks for ids
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_NO_DELTA = b'"delta":{}'  # vLLM sends such a chunk for its ids alone
_NO_FINISH = b'"finish_reason":null'
_REASONING = re.compile(rb'"reasoning(?:_content)?":"[^"]')
_QUOTE = ord('"')


class TokenIds:
    """What is known of one answer, whoever gives it.

    prompt: ids of the prompt, separated by commas; empty until they are told. first: the first event, without ids.
    tells: whether the server tells ids; None: nothing has come yet.
    seen_bytes: of the answer's ids, those whose text the client has. one_by_one: the last text that the client has
    ends with its last token: one token came with it. Of several, the last ones may be part of a character.
    reasoning: the last that the client has is of the model's reasoning.
    """

    __slots__ = (
        "_cut",
        "_cut_bytes",
        "_hides",
        "_ids",
        "_text",
        "first",
        "one_by_one",
        "prompt",
        "reasoning",
        "seen_bytes",
        "tells",
    )

    def __init__(self, text: bytes, hides: bool) -> None:
        """text: what precedes a token's text in a chunk. hides: the client has not asked for ids."""
        self.prompt = self.first = b""
        self.tells: bool | None = None
        self.seen_bytes = 0
        self.one_by_one = True
        self.reasoning = False
        self._ids = bytearray()  # of the answer, each with a comma behind it
        self._text = text
        self._hides = hides
        self._cut: list[bytes] = []  # the beginning of an event
        self._cut_bytes = 0

    @property
    def hides(self) -> bool:
        return self._hides

    @property
    def seen(self) -> bytes:
        """Ids of the tokens whose text the client has, each with a comma behind it."""
        return bytes(self._ids[: self.seen_bytes])

    @property
    def all_seen(self) -> bool:
        """Whether the client has the text of all ids."""
        return self.seen_bytes == len(self._ids)

    @property
    def seen_tokens(self) -> int:
        return self._ids.count(b",", 0, self.seen_bytes)

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.count(b",") + 1

    def go_on(self, *, behind_all: bool) -> None:
        """Another instance goes on behind what the client has seen: it makes the tokens behind that again. behind_all:
        it goes on behind all ids, as if the client had seen them."""
        if behind_all:
            self.seen_bytes = len(self._ids)
        del self._ids[self.seen_bytes :]
        self._cut.clear()
        self._cut_bytes = 0

    def drop_last(self, tokens: int) -> None:
        """Another instance makes the last ones again, which are part of a character."""
        for _ in range(tokens):
            self.seen_bytes = self._ids.rfind(b",", 0, self.seen_bytes - 1) + 1
        del self._ids[self.seen_bytes :]

    def add(self, ids: bytes, text: bool) -> None:
        """A chunk has come with these ids. text: and with text of the answer."""
        if ids:
            self._ids += ids
            self._ids += b","
        if text:
            self.seen_bytes = len(self._ids)
            self.one_by_one = b"," not in ids
            self.reasoning = False

    def take(self, body: bytes, complete: bool) -> bytes:
        """Take what has come of the answer, the last of it if complete; returns whole events, as the client gets
        them. Most reads are one more token."""
        start = body.find(_IDS)
        if start > 0 and self.tells and not self._cut and body.endswith(b"\n\n"):
            end = body.find(b"]", start)
            at = body.find(self._text)
            if at > 0 and body.find(_IDS, end) < 0:
                ids = self._ids
                new = body[start + len(_IDS) : end]
                ids += new
                ids += b","
                if body[at + len(self._text)] != _QUOTE:
                    self.seen_bytes = len(ids)
                    self.one_by_one = b"," not in new
                    self.reasoning = False
                return b"%b%b%b" % (body[: start + len(_IDS) - 1], _HIDDEN, body[end + 1 :]) if self._hides else body
        elif start < 0 and self.tells is False:
            return body
        return self._sift(body, complete)

    def _sift(self, body: bytes, complete: bool) -> bytes:
        self._cut.append(body)
        self._cut_bytes += len(body)
        may_end = b"\n\n" in body or b"\r\n\r\n" in body or body[:1] in (b"\r", b"\n")
        if not (may_end or complete) and self._cut_bytes <= MAX_EVENT_BYTES:
            return b""
        body = b"".join(self._cut)
        self._cut.clear()
        events, start = [], 0
        for match in _EVENT_END.finditer(body):
            events.append(self._event(body[start : match.end()]))
            start = match.end()
        rest = body[start:]
        self._cut_bytes = len(rest)
        if rest and (complete or len(rest) > MAX_EVENT_BYTES):
            events.append(rest)
            self._cut_bytes = 0
        elif rest:
            self._cut.append(rest)
        return b"".join(events)

    def _event(self, event: bytes) -> bytes:
        shown = event
        if self.tells is None and b'"choices"' in event:
            prompt, shown = _without(shown, _PROMPT_IDS)
            self.prompt = prompt
            self.tells = bool(prompt)
            self.first = shown
        ids, shown = _without(shown, _IDS)
        at = event.find(self._text)
        has_text = at > 0 and event[at + len(self._text)] != _QUOTE
        reasons = at < 0 and _REASONING.search(event) is not None
        self.add(ids, has_text or reasons)
        if reasons:
            self.reasoning = True
        elif self._hides and ids and _NO_DELTA in event and _NO_FINISH in event:
            return b""
        return shown if self._hides else event


def _without(event: bytes, mark: bytes) -> tuple[bytes, bytes]:
    """The ids that stand behind the mark, and the event without them."""
    start = event.find(mark)
    end = event.find(b"]", start)
    if start < 0 or end < 0:
        return b"", event
    return event[start + len(mark) : end], b"%b%b%b" % (event[: start + len(mark) - 1], _HIDDEN, event[end + 1 :])
