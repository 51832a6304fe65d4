"""A peek at `usage` in the last bytes of an answer, streamed or plain: nothing else of them is decoded."""

import re
from typing import Annotated

import msgspec

_OBJECT = re.compile(rb'"usage"\s*+:\s*+(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')  # its strings have no braces
_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=10**12)] | None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None


_decode = msgspec.json.Decoder(_Usage).decode


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the instance counted them; None where it did not say. cached_tokens is part of prompt_tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


NO_USAGE = Usage()


def peek_usage(tail: bytes) -> Usage:
    """Reads the last `"usage"` in the tail, in the names of any API. Text of an answer cannot pass for it: its quotes
    are escaped."""
    start = tail.rfind(b'"usage"')
    said = _OBJECT.match(tail, start) if start >= 0 else None
    if said is None:
        return NO_USAGE
    try:
        usage = _decode(said[1])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NO_USAGE
    if usage.prompt_tokens is not None:
        return Usage(usage.prompt_tokens, usage.completion_tokens, _cached(usage.prompt_tokens_details))
    prompt = usage.input_tokens
    if prompt is None:
        return NO_USAGE
    cached = _cached(usage.input_tokens_details)
    # Anthropic counts a prompt in three parts: what was read of a cache, what was written into it, and the rest.
    if cached is None and (cached := usage.cache_read_input_tokens) is not None:
        prompt += cached + (usage.cache_creation_input_tokens or 0)
    return Usage(prompt, usage.output_tokens, cached)


def _cached(details: _Details | None) -> int | None:
    return None if details is None else details.cached_tokens
