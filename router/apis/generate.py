"""/inference/v1/generate: token ids in, token ids out, as vLLM's disaggregated servers ask each other."""

import json
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.body_fields import given
from dualmap.router.apis.common_body import CommonBody
from dualmap.router.apis.completions import pack_ids, read_packed
from dualmap.router.apis.json_body import decode
from dualmap.router.apis.read_body import ASKED, NOT_UNDERSTOOD, UNWANTED, ReadBody, Scope
from dualmap.router.apis.rest_of_generate import GENERATE_REST
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.generate_prompt import read_generate as read_tokens


class _ExtraArguments(msgspec.Struct, gc=False):
    kv_transfer_params: Any = None


class _Sampling(msgspec.Struct, gc=False):
    max_tokens: int | None = None
    min_tokens: Any = 0
    n: Any = None
    prompt_logprobs: Any = None
    prompt_logprob_token_ids: Any = None
    extra_args: _ExtraArguments | None = None


class _RawSampling(msgspec.Struct, gc=False):
    sampling_params: Raw = Raw(b"")


class _Body(CommonBody, gc=False):
    token_ids: list[int] | None = None
    sampling_params: _Sampling | None = None
    features: Raw = Raw(b"")
    content_parts: Raw = Raw(b"")


_decoder = msgspec.json.Decoder(_Body, strict=False)
_raw_decoder = msgspec.json.Decoder(_RawSampling)


def read_generate(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not fields.token_ids or not (packed := pack_ids(fields.token_ids)):
        return NOT_UNDERSTOOD
    sampling = fields.sampling_params
    if sampling is None:
        return replace(read_packed(fields, packed, len(fields.token_ids), None, scope, whole=True), ids=UNWANTED)
    fields.n, fields.min_tokens, fields.prompt_logprobs = sampling.n, sampling.min_tokens, sampling.prompt_logprobs
    own_legs = sampling.extra_args is not None and sampling.extra_args.kv_transfer_params is not None
    has_media = bool(given(fields.features) or given(fields.content_parts))
    whole = has_media or own_legs or sampling.prompt_logprob_token_ids is not None
    read = read_packed(fields, packed, len(fields.token_ids), sampling.max_tokens, scope, whole=whole)
    return replace(read, ids=UNWANTED if has_media or sampling.n not in (None, 1) else ASKED) if read.stream else read


def one_token(body: bytes) -> bytes:
    """See Api. body: one that is understood, with sampling_params."""
    try:
        sampling = bytes(_raw_decoder.decode(body).sampling_params)
    except (msgspec.DecodeError, UnicodeDecodeError):  # what only Python takes for JSON
        sampling = json.dumps(json.loads(body)["sampling_params"]).encode()
    before, _, _ = sampling.rpartition(b"}")
    comma = b"," if b":" in before else b""
    return b',"stream":false,"stream_options":null,"sampling_params":%b%b"max_tokens":1,"min_tokens":0}' % (
        before,
        comma,
    )


GENERATE = Api(
    "generate",
    Placement.PREFIX,
    read=read_generate,
    stream=CHUNK_STREAM,
    operation="text_completion",
    asks_usage=True,
    takes_salt=True,
    one_token=one_token,
    tokens=read_tokens,
    rest=GENERATE_REST,
)
