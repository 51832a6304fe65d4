"""A peek at `usage` in the last bytes of an answer, streamed or plain, without decoding it."""

import re
from typing import NamedTuple

_NUMBER = re.compile(rb"\s*:\s*(\d{1,12})\b")


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
    cached = _number(tail, b'"cached_tokens"', start)
    prompt = _number(tail, b'"prompt_tokens"', start)
    if prompt is not None:
        return Usage(prompt, _number(tail, b'"completion_tokens"', start), cached)
    prompt = _number(tail, b'"input_tokens"', start)
    if prompt is None:
        return NO_USAGE
    # Anthropic counts a prompt in three parts: what was read of a cache, what was written into it, and the rest.
    if cached is None and (cached := _number(tail, b'"cache_read_input_tokens"', start)) is not None:
        prompt += cached + (_number(tail, b'"cache_creation_input_tokens"', start) or 0)
    return Usage(prompt, _number(tail, b'"output_tokens"', start), cached)


def _number(tail: bytes, name: bytes, start: int) -> int | None:
    """The field's value behind start; None where there is no such number."""
    at = tail.find(name, start)
    match = _NUMBER.match(tail, at + len(name)) if at >= 0 else None
    return int(match[1]) if match else None
