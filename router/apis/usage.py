"""A peek at `usage` in the last bytes of an answer, streamed or plain: nothing else of them is decoded."""

import re

import msgspec

from dualmap.router.apis.usage_body import UsageBody, UsageDetails, decode_usage
from dualmap.scheduler.record import record

_NAME = b'"usage"'
_OBJECT = re.compile(rb'"usage"\s*+:\s*+(\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\})')  # its strings have no braces
_CACHED = re.compile(rb'("cached_tokens"\s*+:)(\s*+\d++)')  # in a text its quotes would be escaped


@record
class Usage:
    """Tokens as the instance counted them; None where it did not say. cached_tokens is part of prompt_tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


NO_USAGE = Usage()


def peek_usage(tail: bytes) -> Usage:
    """Reads the last `"usage"` in the tail, in the names of any API. Text of an answer cannot pass for it: its quotes
    are escaped."""
    said = _object(tail)
    if not said:
        return NO_USAGE
    try:
        return usage_of(decode_usage(said))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NO_USAGE


def usage_of(usage: UsageBody) -> Usage:
    """What it says, in the names of any API."""
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


def with_cached(body: bytes, cached_tokens: int) -> bytes:
    """The same piece of an answer, as long, with another count of cached tokens: another instance knows better."""
    if b'"cached_tokens"' not in body:
        return body
    return _CACHED.sub(lambda said: _in_place_of(said, cached_tokens), body)


def _in_place_of(said: re.Match[bytes], count: int) -> bytes:
    digits = b"%d" % count
    return said[1] + digits.rjust(len(said[2])) if len(digits) <= len(said[2]) else said[0]


def _object(tail: bytes) -> bytes:
    """The last one's JSON; empty where there is none."""
    _, name, behind = tail.rpartition(_NAME)
    if not name:
        return b""
    plain, end, _ = behind.partition(b"}")
    before, brace, fields = plain.rpartition(b"{")
    if before == b":":  # as most are: an object without others in it
        return brace + fields + end
    said = _OBJECT.match(name + behind)
    return b"" if said is None else said[1]


def _cached(details: UsageDetails | None) -> int | None:
    return None if details is None else details.cached_tokens
