"""/inference/v1/generate: token ids in, token ids out, as vLLM's disaggregated servers ask each other."""

import msgspec

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.completions import PackedBody, pack_ids, read_packed
from dualmap.router.apis.json_body import decode
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.generate_prompt import read_generate as read_tokens


class _Sampling(msgspec.Struct, gc=False):
    max_tokens: int | None = None


class _Body(PackedBody, gc=False):
    token_ids: list[int] | None = None
    sampling_params: _Sampling | None = None


_decoder = msgspec.json.Decoder(_Body, strict=False)


def read_generate(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not fields.token_ids or not (packed := pack_ids(fields.token_ids)):
        return NOT_UNDERSTOOD
    most = None if fields.sampling_params is None else fields.sampling_params.max_tokens
    return read_packed(fields, packed, len(fields.token_ids), most, scope)


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
