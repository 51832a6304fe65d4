"""/v1/completions: a text, token ids, or several of either."""

from array import array
from typing import Any

import msgspec

from dualmap.router.apis.api import Api, Placement, always
from dualmap.router.apis.body_fields import ids_of, repeats, salt_of, session_of, splits
from dualmap.router.apis.common_body import CommonBody
from dualmap.router.apis.json_body import decode
from dualmap.router.apis.prompt_blocks import prompt_root
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, UNWANTED, ReadBody, Scope
from dualmap.router.apis.replayed_chunks import ReplayedChunks
from dualmap.router.apis.rest_by_ids import COMPLETION_REST
from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.completion_prompt import read_completion as read_tokens
from dualmap.scheduler.blocks import hash_text

MAX_PROMPTS = 50_000  # at once


class _Body(CommonBody, gc=False):
    prompt: Any = None
    max_tokens: int | None = None


_decoder = msgspec.json.Decoder(_Body, strict=False)


def read_completion(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None:
        return NOT_UNDERSTOOD
    prompt_tokens = 0
    several = listed = False
    prompt = fields.prompt
    if isinstance(prompt, list):
        listed = bool(prompt) and isinstance(prompt[0], str | list)
        prompts = prompt if listed else [prompt]
        if len(prompts) > MAX_PROMPTS:
            return NOT_UNDERSTOOD
        packed = [_packed(each) for each in prompts]
        several = len(prompts) > 1
        if None in packed:
            return NOT_UNDERSTOOD
        text = b"".join(each for each in packed if each)
        prompt_tokens = sum(len(each) for each in prompts) if isinstance(prompts[0], list) else 0
    else:
        text = _packed(prompt) or b""
    if not text:
        return NOT_UNDERSTOOD
    return read_packed(fields, text, prompt_tokens, fields.max_tokens, scope, several=several, whole=listed)


def read_packed(
    fields: CommonBody,
    packed: bytes,
    prompt_tokens: int,
    max_output_tokens: int | None,
    scope: Scope,
    *,
    several: bool = False,
    whole: bool = False,
) -> ReadBody:
    """What a body says whose prompt is texts or token ids. packed: the prompt. prompt_tokens: see ReadBody. several:
    they are answered each for itself. whole: one instance computes the prompt and answers."""
    model, cache_salt = fields.model or scope.default_model, salt_of(fields.cache_salt, scope)
    block_bytes = scope.block_tokens * BYTES_PER_BLOCK_TOKEN
    return ReadBody(
        model=model,
        blocks=hash_text(packed, block_bytes, parent=prompt_root(scope.same_models.get(model, model), cache_salt)),
        text_bytes=len(packed),
        hashed_bytes=len(packed),
        prompt_tokens=prompt_tokens,
        stream=fields.stream or False,
        stream_options=fields.stream_options is not msgspec.UNSET,
        max_output_tokens=max(0, max_output_tokens or 0),
        priority=fields.priority,
        cache_salt=cache_salt,
        session=session_of(fields),
        ids=UNWANTED if several else ids_of(fields),
        repeats=repeats(fields),
        splits=scope.splits and not whole and splits(fields, max_output_tokens),
    )


def pack_ids(ids: list[Any]) -> bytes | None:
    """Token ids as four bytes each, as long as a token's text is taken for; None where they are none."""
    try:
        return array("I", ids).tobytes()
    except (TypeError, OverflowError):
        return None


def _packed(prompt: Any) -> bytes | None:
    """One prompt; None for what is none."""
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "surrogatepass")
    return pack_ids(prompt) if isinstance(prompt, list) else None


COMPLETIONS = Api(
    "completions",
    Placement.PREFIX,
    read=read_completion,
    stream=CHUNK_STREAM,
    operation="text_completion",
    asks_usage=True,
    takes_salt=True,
    one_token=always(b',"stream":false,"stream_options":null,"max_tokens":1,"min_tokens":0,"return_token_ids":false'),
    tokens=read_tokens,
    rest=COMPLETION_REST,
    replayed=ReplayedChunks,
)
