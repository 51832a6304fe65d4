"""The fields that bodies have in common where their API is placed by prefix, see json_body.py."""

from typing import Any

import msgspec
from msgspec import Raw


class CommonBody(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    stream_options: Any = msgspec.UNSET
    priority: int | None = None
    cache_salt: str | None = None
    prompt_cache_key: Any = None
    session_id: Any = None
    n: Any = None
    min_tokens: Any = 0
    best_of: Any = None
    echo: Any = None
    use_beam_search: Any = None
    return_token_ids: Any = msgspec.UNSET
    temperature: Any = None
    seed: Any = None
    prompt_logprobs: Any = None
    kv_transfer_params: Any = None


class ChatBody(CommonBody, gc=False):
    """Of an API that vLLM turns into a chat."""

    tools: Raw = Raw(b"")
