"""A peek at `usage` in the last bytes of an answer, streamed or plain, without decoding it."""

import re
from typing import NamedTuple

_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})\b')
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})\b')
_CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,12})\b')


class Usage(NamedTuple):
    """Tokens as the instance counted them; None where it did not say. cached_tokens is part of prompt_tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


NO_USAGE = Usage()


def peek_usage(tail: bytes) -> Usage:
    """Reads the last `"usage"` in the tail. Text of an answer cannot pass for it: its quotes are escaped."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return NO_USAGE
    prompt = _PROMPT.search(tail, start)
    if prompt is None:
        return NO_USAGE
    completion = _COMPLETION.search(tail, start)
    cached = _CACHED.search(tail, start)
    return Usage(
        int(prompt[1]),
        int(completion[1]) if completion else None,
        int(cached[1]) if cached else None,
    )
