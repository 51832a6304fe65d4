"""The token ids of a streamed answer: kept, so that another instance can go on with the answer, and taken off its
chunks where the client has not asked for them.

Chunks are read as vLLM spells them, compact; ids of any other spelling stay where they are, and are not known. Ids stay
text, as they came: a prompt's are sent on as they are, and most answers never need theirs.
"""

import re

from dualmap.router.apis.stream_event import whole_events

ASK_FOR_IDS = b'"return_token_ids":true,'  # in front of a request's fields, where the client's own wins over it
MAX_EVENT_BYTES = 16 << 20  # the ids of a prompt of two million tokens

IDS = b'"token_ids":['
_PROMPT_IDS = b'"prompt_token_ids":['
HIDDEN = b"null"  # what vLLM sends in their place where nobody asks for ids
_NO_DELTA = b'"delta":{}'  # vLLM sends such a chunk for its ids alone
_NO_FINISH = b'"finish_reason":null'
_REASONING = re.compile(rb'"reasoning(?:_content)?":"[^"]')
_REASONING_STARTS = (b'"reasoning":"', b'"reasoning_content":"')  # as `_REASONING` has them
_CALLS = b'"tool_calls":[{'
_ID = re.compile(rb"\d+")
_PROMPT = re.compile(rb"\d+(?:,\d+)*")
_ANSWER = re.compile(rb"(?:\d+(?:,\d+)*\])*")
_UNKNOWN = b"?]"  # in place of the ids of a text that came without
_QUOTE = ord('"')


class TokenIds:
    """What is known of one answer, whoever gives it.

    text: what precedes a token's text in a chunk. hides: the client has not asked for ids. prompt: ids of the prompt,
    separated by commas; empty until they are told. first: the first event, without ids. tells: whether the server tells
    ids; None: nothing has come yet. calls: the answer has called tools. answer: ids of the answer, a "]" behind those
    of each chunk. seen_bytes: of these, those whose text the client has.
    """

    __slots__ = (
        "_added_bytes",
        "_cut",
        "_cut_bytes",
        "_reasoned_bytes",
        "_reasons",
        "answer",
        "calls",
        "first",
        "hides",
        "prompt",
        "seen_bytes",
        "tells",
        "text",
    )

    def __init__(self, text: bytes, hides: bool) -> None:
        self.hides = hides
        self.prompt = self.first = b""
        self.tells: bool | None = None
        self.calls = False
        self.answer = bytearray()
        self.seen_bytes = 0
        self._reasons = False
        self._added_bytes = 0
        self._reasoned_bytes = -1
        self.text = text
        self._cut: list[bytes] = []  # the beginning of an event
        self._cut_bytes = 0

    @property
    def seen(self) -> list[bytes]:
        """Ids of the tokens whose text the client has."""
        return _ID.findall(self.answer, 0, self.seen_bytes)

    @property
    def seen_tokens(self) -> int:
        return len(self.seen)

    @property
    def groups(self) -> list[bytes]:
        """All of the answer's ids, as they came together."""
        return [group for group in bytes(self.answer).split(b"]") if group]

    @property
    def all_seen(self) -> bool:
        """Whether the client has the text of all ids."""
        return self.seen_bytes == len(self.answer)

    @property
    def is_amid(self) -> bool:
        """Whether the beginning of an event is held."""
        return bool(self._cut)

    @property
    def known(self) -> bool:
        """Whether they are all there, and ids: a server may tell none with some text, or tell something else."""
        return _PROMPT.fullmatch(self.prompt) is not None and _ANSWER.fullmatch(self.answer) is not None

    @property
    def one_by_one(self) -> bool:
        """Whether the last text that the client has ends with its last token, since one token came with it. Of several,
        the last ones may be part of a character."""
        start = self.answer.rfind(b"]", 0, max(0, self.seen_bytes - 1))
        return self.answer.find(b",", start + 1, self.seen_bytes) < 0

    @property
    def reasoning(self) -> bool:
        """Whether the last that the client has is of the model's reasoning."""
        quick = self._reasons and self._added_bytes != self.seen_bytes
        return quick or self._reasoned_bytes == self.seen_bytes

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.count(b",") + 1

    def go_on(self, *, behind_all: bool) -> None:
        """Another instance goes on behind what the client has seen: it makes the tokens behind that again. behind_all:
        it goes on behind all ids, as if the client had seen them."""
        if behind_all:
            self.seen_bytes = len(self.answer)
        del self.answer[self.seen_bytes :]
        self._cut.clear()
        self._cut_bytes = 0

    def drop_last(self, tokens: int) -> None:
        """Another instance makes the last ones again, which are part of a character."""
        if tokens:
            self.answer[:] = b"".join(b"%b]" % token for token in self.seen[:-tokens])
            self.seen_bytes = self._added_bytes = len(self.answer)

    def expect(self, start: bytes) -> bool:
        """Whether texts behind this start count as the answer's or as reasoning; if so, those whose ids are not given
        to `add` from now on are of this kind."""
        reasons = start.endswith(_REASONING_STARTS)
        if not reasons and not start.endswith(self.text):
            return False
        if self.reasoning:
            self._reasoned_bytes = self.seen_bytes
        self._added_bytes = self.seen_bytes
        self._reasons = reasons
        return True

    def add(self, ids: bytes, text: bool) -> None:
        """A chunk has come with these ids. text: and with text that the client gets."""
        if ids:
            self.answer += ids + b"]"
        elif text:
            self.answer += _UNKNOWN
        if text:
            self.seen_bytes = self._added_bytes = len(self.answer)

    def take(self, body: bytes, complete: bool) -> bytes:
        """Take what has come of the answer, the last of it if complete; returns whole events, as the client gets
        them."""
        if self.tells is False:
            return body
        self._cut.append(body)
        self._cut_bytes += len(body)
        may_end = b"\n\n" in body or b"\r\n\r\n" in body or body[:1] in (b"\r", b"\n")
        if not (may_end or complete) and self._cut_bytes <= MAX_EVENT_BYTES:
            return b""
        body = b"".join(self._cut)
        self._cut.clear()
        events, rest = whole_events(body)
        shown = [self._event(event) for event in events]
        self._cut_bytes = len(rest)
        if rest and (complete or len(rest) > MAX_EVENT_BYTES):
            shown.append(rest)
            self._cut_bytes = 0
        elif rest:
            self._cut.append(rest)
        return b"".join(shown)

    def _event(self, event: bytes) -> bytes:
        shown = event
        if self.tells is None and b'"choices"' in event:
            prompt, shown = _without(shown, _PROMPT_IDS)
            self.prompt = prompt
            self.tells = bool(prompt)
            self.first = shown
        ids, shown = _without(shown, IDS)
        at = event.find(self.text)
        has_text = at > 0 and event[at + len(self.text)] != _QUOTE
        reasons = at < 0 and _REASONING.search(event) is not None
        self.add(ids, has_text or reasons)
        if _CALLS in event:
            self.calls = True
        if reasons:
            self._reasoned_bytes = self.seen_bytes
        elif self.hides and ids and _NO_DELTA in event and _NO_FINISH in event:
            return b""
        return shown if self.hides else event


def _without(event: bytes, mark: bytes) -> tuple[bytes, bytes]:
    """The ids that stand behind the mark, and the event without them."""
    start = event.find(mark)
    end = event.find(b"]", start)
    if start < 0 or end < 0 or event.find(b"[", start + len(mark), end) >= 0:  # lists of lists stay where they are
        return b"", event
    return event[start + len(mark) : end], b"%b%b%b" % (event[: start + len(mark) - 1], HIDDEN, event[end + 1 :])
