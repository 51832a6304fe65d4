"""/v1/chat/completions: OpenAI's chats."""

from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.api import NOT_UNDERSTOOD, Api, Placement, ReadBody, Scope
from dualmap.router.apis.json_body import CommonBody, decode, model_of, salt_of, session_of
from dualmap.router.apis.lax import lax_bool, lax_int
from dualmap.router.apis.prompt_text import (
    SYSTEM_ROLES,
    Media,
    Spelled,
    call_text,
    chat_blocks,
    content_text,
    field_text,
    in_order,
    spell,
)
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.chat_prompt import read_chat as read_tokens


class _Body(CommonBody, gc=False):
    messages: Any = None
    tools: Raw = Raw(b"")
    stream_options: Any = msgspec.UNSET
    max_tokens: Any = None
    max_completion_tokens: Any = None


_decoder = msgspec.json.Decoder(_Body)


def read_chat(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not isinstance(fields.messages, list) or not fields.messages:
        return NOT_UNDERSTOOD
    media = Media()
    messages: Spelled = []
    for message in fields.messages:
        if type(message) is not dict:
            return NOT_UNDERSTOOD
        role, content = message.get("role"), message.get("content")
        if type(role) is not str:
            return NOT_UNDERSTOOD
        if type(content) is not str:
            content = content_text(content, media, is_system=role in SYSTEM_ROLES)
        if len(message) > 2:
            content += _beside(message)
        spell(messages, role, content)
    model, cache_salt = model_of(fields, scope), salt_of(fields, scope)
    tools = b"" if fields.tools == b"null" else bytes(fields.tools)
    blocks = chat_blocks(messages, media, tools, model=model, cache_salt=cache_salt, scope=scope)
    return ReadBody(
        model=model,
        blocks=blocks.blocks,
        text_bytes=blocks.text_bytes,
        media=media.counts,
        hashed_bytes=blocks.hashed_bytes,
        stream=lax_bool(fields.stream),
        stream_options=fields.stream_options is not msgspec.UNSET,
        max_output_tokens=max(0, lax_int(fields.max_completion_tokens) or lax_int(fields.max_tokens) or 0),
        priority=lax_int(fields.priority),
        cache_salt=cache_salt,
        session=session_of(fields),
    )


def _beside(message: dict[str, Any]) -> str:
    """What a message has beside its content, as far as templates print it."""
    texts = []
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if reasoning:
        texts.append(field_text("reasoning", reasoning if isinstance(reasoning, str) else in_order(reasoning)))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                texts.append(call_text(function.get("name"), function.get("arguments"), call.get("id")))
            else:
                texts.append(field_text("call", in_order(call)))
    for name in ("name", "tool_call_id"):
        if isinstance(value := message.get(name), str):
            texts.append(field_text(name, value))
    return "".join(texts)


CHAT = Api(
    "chat",
    Placement.PREFIX,
    read=read_chat,
    stream=CHUNK_STREAM,
    operation="chat",
    asks_usage=True,
    takes_salt=True,
    tokens=read_tokens,
)
