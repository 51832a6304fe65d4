"""The object `usage` of an answer, in the names of any API."""

from typing import Annotated

import msgspec

_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=10**12)] | None


class UsageDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = None


class UsageBody(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    prompt_tokens_details: UsageDetails | None = None
    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    input_tokens_details: UsageDetails | None = None
    cache_read_input_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None


decode_usage = msgspec.json.Decoder(UsageBody).decode
