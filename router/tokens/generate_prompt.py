"""The prompt of `/inference/v1/generate`: token ids as they are, where nothing else is in it."""

from typing import Any

import msgspec

from dualmap.router.tokens.chat_messages import UnsupportedPromptError
from dualmap.router.tokens.completion_prompt import CompletionRequest


class _Generate(msgspec.Struct, gc=False):
    token_ids: list[int]
    features: Any = None
    content_parts: Any = None
    cache_salt: str | None = None


_decode = msgspec.json.Decoder(_Generate).decode


def read_generate(body: bytes, _: object) -> CompletionRequest:
    """A PromptReader. Raises UnsupportedPromptError where pictures or sound are among the ids, msgspec.MsgspecError."""
    request = _decode(body)
    if request.features or request.content_parts:
        raise UnsupportedPromptError("media among the token ids")
    return CompletionRequest(prompt=request.token_ids, cache_salt=request.cache_salt)
