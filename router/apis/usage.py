"""A peek at `usage` in the last bytes of an answer, streamed or plain, without decoding it."""

import re
from typing import NamedTuple

_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,12})\b')
_PROMPT = re.compile(rb'"(prompt|input)_tokens"\s*:\s*(\d{1,12})\b')
_CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,12})\b')
# Anthropic counts a prompt in three parts: what was read of a cache, what was written into it, and the rest.
_READ = re.compile(rb'"cache_read_input_tokens"\s*:\s*(\d{1,12})\b')
_WRITTEN = re.compile(rb'"cache_creation_input_tokens"\s*:\s*(\d{1,12})\b')


class Usage(NamedTuple):
    """Tokens as the instance counted them; None where it did not say. cached_tokens is part of prompt_tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


NO_USAGE = Usage()


def peek_usage(tail: bytes) -> Usage:
    """Reads the last `"usage"` in the tail, in the names of any API. Text of an answer cannot pass for it: its quotes
    are escaped."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return NO_USAGE
    prompt = _PROMPT.search(tail, start)
    if prompt is None:
        return NO_USAGE
    tokens = int(prompt[2])
    completion = _COMPLETION.search(tail, start)
    cached = _CACHED.search(tail, start)
    if cached is None and prompt[1] == b"input" and (cached := _READ.search(tail, start)) is not None:
        written = _WRITTEN.search(tail, start)
        tokens += int(cached[1]) + (int(written[1]) if written else 0)
    return Usage(tokens, int(completion[1]) if completion else None, int(cached[1]) if cached else None)
