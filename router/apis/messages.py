"""/v1/messages and /v1/messages/count_tokens: Anthropic's chats, which vLLM turns into those of OpenAI."""

from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.anthropic_error import anthropic_error
from dualmap.router.apis.api import NOT_UNDERSTOOD, Api, Placement, ReadBody, Scope
from dualmap.router.apis.json_body import CommonBody, decode, given, salt_of, session_of
from dualmap.router.apis.media import Media
from dualmap.router.apis.named_model import read_model
from dualmap.router.apis.prompt_blocks import chat_blocks
from dualmap.router.apis.prompt_text import BILLING_HEADER, MAX_PARTS, content_text, part_text
from dualmap.router.apis.spelling import Spelled, call_text, field_text, spell
from dualmap.router.apis.stream_rules import MESSAGES_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.messages_prompt import read_messages as read_tokens


class _Message(msgspec.Struct, gc=False):
    role: str
    content: Any = None


class _Body(CommonBody, gc=False):
    system: Any = None
    messages: list[_Message] | None = None
    tools: Raw = Raw(b"")
    max_tokens: int | None = None
    metadata: Any = None


_decoder = msgspec.json.Decoder(_Body, strict=False)


def read_messages(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not fields.messages:
        return NOT_UNDERSTOOD
    media = Media()
    messages: Spelled = []
    if fields.system:
        spell(messages, "system", _system_text(fields.system))
    for message in fields.messages:
        role, content = message.role, message.content
        if role == "system":
            spell(messages, role, _system_text(content))
        elif isinstance(content, list) and len(content) <= MAX_PARTS:
            _add_parts(role, content, messages, media)
        else:
            spell(messages, role, content_text(content, media))
    model, cache_salt = fields.model or scope.default_model, salt_of(fields.cache_salt, scope)
    tools = given(fields.tools)
    blocks = chat_blocks(messages, media, tools, model, cache_salt, scope)
    return ReadBody(
        model=model,
        blocks=blocks.blocks,
        text_bytes=blocks.text_bytes,
        media=media.counts,
        hashed_bytes=blocks.hashed_bytes,
        stream=fields.stream or False,
        max_output_tokens=max(0, fields.max_tokens or 0),
        priority=fields.priority,
        cache_salt=cache_salt,
        session=session_of(fields) or _user_of(fields.metadata),
    )


def _system_text(system: Any) -> str:
    """A line that changes with every request of Claude Code is left out, as vLLM does."""
    parts = system if isinstance(system, list) else [system]
    texts = [part_text(part, Media()) for part in parts]
    return "".join(text for text in texts if not text.startswith(BILLING_HEADER))


def _add_parts(role: str, parts: list[Any], messages: Spelled, media: Media) -> None:
    """Results of tools come before what else the user says; calls and thoughts behind what the assistant says."""
    texts: list[str] = []
    beside: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result":
            result = content_text(part.get("content"), media)
            spell(messages, "tool", result + field_text("tool_call_id", str(part.get("tool_use_id"))))
        elif kind == "tool_use":
            beside.append(call_text(part.get("name"), part.get("input"), part.get("id")))
        elif kind == "thinking":
            beside.append(field_text("reasoning", str(part.get("thinking"))))
        elif text := part_text(part, media):
            texts.append(text)
    if texts or beside:
        spell(messages, role, "\n".join(texts) + "".join(beside))


def _user_of(metadata: Any) -> str:
    """Claude Code writes its session there."""
    named = metadata.get("user_id") if isinstance(metadata, dict) else None
    return named if isinstance(named, str) else ""


def read_count(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader: the instance counts the prompt and does not run it."""
    read = read_messages(http, body, scope)
    return msgspec.structs.replace(read, prompt_tokens=1, cached=False, stream=False) if read.understood else read


MESSAGES = Api(
    "messages",
    Placement.PREFIX,
    read=read_messages,
    stream=MESSAGES_STREAM,
    error=anthropic_error,
    operation="chat",
    takes_salt=True,
    tokens=read_tokens,
)
COUNT_TOKENS = Api("count_tokens", Placement.PREFIX, read=read_count, error=anthropic_error)
ABOUT_MESSAGES = Api("about messages", Placement.LOAD, read=read_model, error=anthropic_error, takes_salt=True)
