"""What the fields say that bodies have in common, see json_body.py."""

from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.common_body import CommonBody
from dualmap.router.apis.read_body import ASKED, UNASKED, UNWANTED, Scope, WishForIds

_NULL = Raw(b"null")  # which no bytes are equal to


def salt_of(cache_salt: str | None, scope: Scope) -> str:
    """What two tenants who are kept apart cannot have in common, whatever salts they choose."""
    if not scope.apart:
        return cache_salt or ""
    return sha256(f"{len(scope.apart)} {scope.apart} {cache_salt or ''}".encode()).hexdigest()


def ids_of(fields: CommonBody) -> WishForIds:
    """What the client says of the token ids of its answer."""
    if not fields.stream:
        return UNWANTED
    if not (fields.n is None or fields.n == 1) or fields.echo or fields.use_beam_search:
        return UNWANTED  # not one answer after the prompt
    if fields.return_token_ids is msgspec.UNSET:
        return UNASKED
    return ASKED if fields.return_token_ids is True else UNWANTED


def repeats(fields: CommonBody) -> bool:
    """Whether the answer is a stream that is the same whenever it is made."""
    return bool(fields.stream) and (fields.temperature == 0 or fields.seed is not None)


def splits(fields: CommonBody, max_output_tokens: int | None) -> bool:
    """Whether one instance may compute the prompt, and another answer. Not where several answers are asked for: the
    first of them would take the computed prompt. Nor something of the prompt, which the answering instance does not
    compute; nor where the client sees to the legs itself. Nor where the server may refuse a field in whose place a
    prefill leg has its own: what that computes would be kept for nobody."""
    least = fields.min_tokens
    return (
        (max_output_tokens is None or max_output_tokens > 0)
        and (type(least) is int and 0 <= least <= (max_output_tokens or 0))
        and (fields.stream_options is msgspec.UNSET or _are_options(fields.stream_options, fields.stream))
        and (fields.return_token_ids is msgspec.UNSET or is_flag(fields.return_token_ids))
        and (fields.n is None or fields.n == 1)
        and (fields.best_of is None or fields.best_of == 1)
        and not (fields.echo or fields.use_beam_search)
        and fields.prompt_logprobs is None
        and fields.kv_transfer_params is None
    )


def _are_options(options: Any, stream: bool | None) -> bool:
    """Whether they can be a stream's `stream_options`."""
    if not options:
        return options is None or isinstance(options, dict)
    return bool(stream) and isinstance(options, dict) and all(map(is_flag, options.values()))


def is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def session_of(fields: CommonBody) -> str:
    """What the client names its session; empty where it does not."""
    named = fields.prompt_cache_key or fields.session_id
    return named if isinstance(named, str) else ""


def given(raw: Raw) -> bytes:
    """A field's JSON; empty where it is absent or null."""
    return bytes(raw) if raw and raw != _NULL else b""
