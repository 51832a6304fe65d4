"""Text -> token ids, tokenising only what has not been seen.

A tokenizer cuts a text at its special tokens before anything else, and what lies between them is tokenised piece by
piece. So a text is cut here in front of each special token, and the ids of each segment are kept: a chat's next turn
costs its new messages alone. A segment begins with its special token, because the first piece of a text may be treated
differently from the others (Metaspace, prepend_scheme "first").
"""

import re
from array import array
from collections import OrderedDict
from operator import add
from threading import Lock
from typing import Any, NamedTuple

ENTRY_CHARS = 128  # what a kept segment costs besides its text, so that many short ones are bounded too
SAMPLE_TEXTS = (
    "Hello, wörld!",
    "  two  spaces ",
    "\n\n x = 1\n",
    "日本語と🙂 e\u0301 ﬁ",
    "\ttab",
    "\r\n",
    " ",
    "3.14<|>x",
)


class TokenIds(NamedTuple):
    """ids: of type code "I". computed_chars, cached_chars: how much text was tokenised, and how much was known."""

    ids: "array[int]"
    computed_chars: int
    cached_chars: int


class TextTokens:
    """segmented: texts are cut at special tokens. False where that would not give the ids of the whole text, as samples
    show when the tokenizer is loaded; then each text is tokenised whole, and nothing is kept."""

    def __init__(self, tokenizer: Any, cache_chars: int) -> None:
        """cache_chars: bound of the kept segments, in characters of text."""
        self._tokenizer = tokenizer
        self._cache_chars = cache_chars
        self._kept_chars = 0
        self._kept: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = Lock()
        self._head: array[int] = array("I")
        self._tail: array[int] = array("I")
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        as_text = getattr(tokenizer, "split_special_tokens", False)  # special tokens are read as any other text
        specials = _cutting_tokens(self._backend) if self._backend and not as_text else []
        self._cut = re.compile(f"({'|'.join(map(re.escape, specials))})" if specials else "((?!))")
        self.segmented = self._backend is not None and self._equals_whole_texts(specials)
        self._kept.clear()
        self._kept_chars = 0

    @property
    def kept_chars(self) -> int:
        return self._kept_chars

    def encode(self, text: str, add_special_tokens: bool) -> TokenIds:
        """add_special_tokens: those that the tokenizer puts around a text, such as a first BOS. Any thread may call."""
        if not self.segmented:
            with self._lock:  # such a call sets the tokenizer's truncation and padding, which no two threads may
                return TokenIds(self._encode_whole(text, add_special_tokens), len(text), 0)
        return self._encode_segments(text, add_special_tokens)

    def _encode_segments(self, text: str, add_special_tokens: bool) -> TokenIds:
        first, *rest = self._cut.split(text)  # text, special token, text, special token, text ...
        segments = [first] if first else []
        segments += map(add, rest[::2], rest[1::2])
        kept = self._kept
        found: dict[str, array[int]] = {}
        with self._lock:
            for segment in segments:
                ids = kept.get(segment)
                if ids is not None:
                    kept.move_to_end(segment)
                    found[segment] = ids
        missing = [segment for segment in dict.fromkeys(segments) if segment not in found]
        if missing:
            # The batch call lets other threads run meanwhile; `encode` would hold the interpreter.
            encodings = self._backend.encode_batch_fast(missing, add_special_tokens=False)
            for segment, encoding in zip(missing, encodings, strict=True):
                found[segment] = array("I", encoding.ids)
            self._keep({segment: found[segment] for segment in missing})
        ids = array("I", self._head if add_special_tokens else ())
        for segment in segments:
            ids += found[segment]
        if add_special_tokens:
            ids += self._tail
        computed_chars = sum(map(len, missing))
        return TokenIds(ids, computed_chars, len(text) - computed_chars)

    def _keep(self, segments: "dict[str, array[int]]") -> None:
        kept = self._kept
        with self._lock:
            for segment, ids in segments.items():
                if segment not in kept:
                    kept[segment] = ids
                    self._kept_chars += len(segment) + ENTRY_CHARS
            while self._kept_chars > self._cache_chars:
                oldest, _ = kept.popitem(last=False)
                self._kept_chars -= len(oldest) + ENTRY_CHARS

    def _encode_whole(self, text: str, add_special_tokens: bool) -> "array[int]":
        return array("I", self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def _equals_whole_texts(self, specials: list[str]) -> bool:
        """Whether samples give the ids that the tokenizer itself gives to the whole text."""
        bare, dressed = (self._encode_whole("x", dress) for dress in (False, True))
        head_tokens = next((n for n in range(len(dressed)) if dressed[n : n + len(bare)] == bare), 0)
        self._head, self._tail = dressed[:head_tokens], dressed[head_tokens + len(bare) :]
        every = "".join(f"{SAMPLE_TEXTS[n % len(SAMPLE_TEXTS)]}{special}" for n, special in enumerate(specials))
        samples = ["", *SAMPLE_TEXTS, every, *(_sample(special) for special in specials[:16])]
        whole = [self._encode_whole(text, dress) for text in samples for dress in (False, True)]
        self._backend.no_truncation()
        self._backend.no_padding()
        return whole == [self._encode_segments(text, dress).ids for text in samples for dress in (False, True)]


def _sample(special: str) -> str:
    return "".join(f"{text}{special}{text}{special}{special}\n{text}" for text in SAMPLE_TEXTS)


def _cutting_tokens(backend: Any) -> list[str]:
    """The special tokens that are found in a raw text wherever they stand in it, whatever is next to them."""
    raw = [token for token in backend.get_added_tokens_decoder().values() if token.content and not token.normalized]
    contents = "\0".join(token.content for token in raw)
    endings = {token.content[start:] for token in raw for start in range(1, len(token.content))}

    def overlaps(content: str) -> bool:
        """Another token may contain it, or end where it begins: then the leftmost and longest is found instead."""
        beginnings = (content[:stop] for stop in range(1, len(content) + 1))
        return contents.count(content) > 1 or any(beginning in endings for beginning in beginnings)

    return [
        token.content
        for token in raw
        if token.special
        and not (token.lstrip or token.single_word or token.content[0].isspace() or overlaps(token.content))
    ]
