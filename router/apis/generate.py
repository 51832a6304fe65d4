"""/inference/v1/generate: token ids in, token ids out, as vLLM's disaggregated servers ask each other."""

from typing import Any

import msgspec

from dualmap.router.apis.api import NOT_UNDERSTOOD, Api, Placement, ReadBody, Scope
from dualmap.router.apis.completions import pack_ids
from dualmap.router.apis.json_body import CommonBody, decode, salt_of, session_of
from dualmap.router.apis.prompt_blocks import prompt_root
from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.generate_prompt import read_generate as read_tokens
from dualmap.scheduler.blocks import hash_text


class _Sampling(msgspec.Struct, gc=False):
    max_tokens: int | None = None


class _Body(CommonBody, gc=False):
    token_ids: list[int] | None = None
    sampling_params: _Sampling | None = None
    stream_options: Any = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Body, strict=False)


def read_generate(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not fields.token_ids or not (packed := pack_ids(fields.token_ids)):
        return NOT_UNDERSTOOD
    model, cache_salt = fields.model or scope.default_model, salt_of(fields.cache_salt, scope)
    sampling = fields.sampling_params
    block_bytes = scope.block_tokens * BYTES_PER_BLOCK_TOKEN
    return ReadBody(
        model=model,
        blocks=hash_text(packed, block_bytes, parent=prompt_root(model, cache_salt)),
        text_bytes=len(packed),
        hashed_bytes=len(packed),
        prompt_tokens=len(fields.token_ids),
        stream=fields.stream or False,
        stream_options=fields.stream_options is not msgspec.UNSET,
        max_output_tokens=max(0, sampling.max_tokens or 0) if sampling else 0,
        priority=fields.priority,
        cache_salt=cache_salt,
        session=session_of(fields),
    )


GENERATE = Api(
    "generate",
    Placement.PREFIX,
    read=read_generate,
    stream=CHUNK_STREAM,
    operation="text_completion",
    asks_usage=True,
    takes_salt=True,
    tokens=read_tokens,
)
