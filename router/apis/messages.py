"""/v1/messages and /v1/messages/count_tokens: Anthropic's chats, which vLLM turns into those of OpenAI."""

from dataclasses import replace
from typing import Any

import msgspec

from dualmap.router.apis.anthropic_error import anthropic_error
from dualmap.router.apis.api import Api, Placement, always
from dualmap.router.apis.common_body import ChatBody
from dualmap.router.apis.json_body import MAX_MESSAGES, decode
from dualmap.router.apis.media import Media
from dualmap.router.apis.named_model import read_model
from dualmap.router.apis.prompt_blocks import read_as_chat
from dualmap.router.apis.prompt_text import BILLING_HEADER, content_text, part_text
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.replayed_messages import ReplayedMessage
from dualmap.router.apis.spelling import Spelled, call_text, field_text, in_order, spell
from dualmap.router.apis.stream_rules import MESSAGES_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.messages_prompt import read_messages as read_tokens


class _Message(msgspec.Struct, gc=False):
    role: str
    content: Any = None


class _Body(ChatBody, gc=False):
    system: Any = None
    messages: list[_Message] | None = None
    max_tokens: int | None = None
    metadata: Any = None
    thinking: Any = None


_decoder = msgspec.json.Decoder(_Body, strict=False)


def read_messages(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None or not fields.messages or len(fields.messages) > MAX_MESSAGES:
        return NOT_UNDERSTOOD
    media = Media()
    messages: Spelled = []
    if fields.system:
        spell(messages, "system", _system_text(fields.system))
    for message in fields.messages:
        role, content = message.role, message.content
        if role == "system":
            spell(messages, role, _system_text(content))
        elif isinstance(content, list) and media.takes(content):
            _add_parts(role, content, messages, media)
        else:
            spell(messages, role, content_text(content, media))
    most, session = fields.max_tokens, _user_of(fields.metadata)
    # Without a number of tokens it is refused, but a prefill leg, which has its own, would not be.
    whole = most is None or _thinks_too_long(fields.thinking, most)
    return read_as_chat(fields, messages, media, most, scope, session=session, whole=whole)


def _thinks_too_long(thinking: Any, max_tokens: int) -> bool:
    """The server refuses it, but no prefill leg, which has a number of tokens of its own."""
    budget = thinking.get("budget_tokens", 0) if isinstance(thinking, dict) else 0
    return not (type(budget) is int and budget < max_tokens)


def _system_text(system: Any) -> str:
    """A line that changes with every request of Claude Code is left out, as vLLM does."""
    parts, media = system if isinstance(system, list) else [system], Media()
    texts = [part_text(part, media) for part in parts] if media.takes(parts) else [in_order(parts)]
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
    return replace(read, prompt_tokens=1, cached=False, stream=False) if read.understood else read


MESSAGES = Api(
    "messages",
    Placement.PREFIX,
    read=read_messages,
    replayed=ReplayedMessage,
    stream=MESSAGES_STREAM,
    error=anthropic_error,
    operation="chat",
    takes_salt=True,
    one_token=always(b',"stream":false,"max_tokens":1'),
    tokens=read_tokens,
)
COUNT_TOKENS = Api("count_tokens", Placement.PREFIX, read=read_count, error=anthropic_error)
ABOUT_MESSAGES = Api("about messages", Placement.LOAD, read=read_model, error=anthropic_error, takes_salt=True)
