"""What is left of an answer whose client has part of it, and how another instance is asked for that."""

from dataclasses import replace
from typing import Any

import msgspec

from dualmap.router.apis.rest_by_ids import TARGET, RestByIds, read_fields
from dualmap.router.apis.rest_chunks import RestChunks
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.requests.asked import Asked
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request


class Rest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """request: as the core is told of it. target, body: of the request to an instance. ids: of the answer so far.
    chunks: what an instance sends, as the client gets it. cause: why the answer has to go on elsewhere. number: how
    many times it has gone on, this time included. failed_on: the instances that it was on."""

    request: Request
    target: bytes
    body: bytes
    ids: TokenIds
    chunks: RestChunks
    cause: FailureCause
    number: int
    failed_on: tuple[str, ...]


def rest_of(
    asked: Asked,
    api_rest: RestByIds,
    ids: TokenIds,
    *,
    cause: FailureCause,
    before: Rest | None,
    attempt: int,
    instance_id: str,
    context_tokens: int,
) -> Rest | str:
    """What is left of an answer, or why no other instance can go on with it. before: the rest that it is the rest of.
    attempt, instance_id: which failed. context_tokens: see RestByIds."""
    fields = read_fields(asked.prompt.body)
    if fields is None:
        return "its request is not kept"
    if why_not := api_rest.hindrance(fields, ids):
        return why_not
    tokens_left = api_rest.tokens_left(fields, ids, context_tokens)
    if tokens_left is None:
        return "how long it may become is not known"
    try:
        chunks = _chunks(fields, ids, asked.prompt.hides_usage)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "its first chunk cannot be read"
    ids.go_on()
    prompt_tokens, sent_tokens = ids.prompt_tokens, ids.seen_tokens
    if tokens_left <= 0:
        return "it has as many tokens as it may have"
    request = replace(
        asked.request,
        prompt_tokens=prompt_tokens + sent_tokens,
        max_output_tokens=tokens_left,
        length_tokens=prompt_tokens + sent_tokens + tokens_left if asked.request.length_tokens else 0,
        goes_on_after=attempt,
        sent_tokens=sent_tokens,
    )
    failed_on = () if before is None else before.failed_on
    return Rest(
        request=request,
        target=TARGET,
        body=api_rest.body(fields, ids, tokens_left),
        ids=ids,
        chunks=chunks,
        cause=cause,
        number=1 if before is None else before.number + 1,
        failed_on=tuple(dict.fromkeys((*failed_on, instance_id))),
    )


def _chunks(fields: dict[str, Any], ids: TokenIds, hides_usage: bool) -> RestChunks:
    options = fields.get("stream_options")
    asked = options if isinstance(options, dict) and not hides_usage else {}
    usage, usages = bool(asked.get("include_usage")), bool(asked.get("continuous_usage_stats"))
    return RestChunks(ids, usage, usage and usages)
