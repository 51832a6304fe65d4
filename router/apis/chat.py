"""/v1/chat/completions: OpenAI's chats."""

from msgspec.structs import astuple

from dualmap.router.apis.api import Api, Placement, always
from dualmap.router.apis.chat_body import ChatMessage, decoder
from dualmap.router.apis.json_body import MAX_MESSAGES, decode
from dualmap.router.apis.media import Media
from dualmap.router.apis.prompt_blocks import read_as_chat
from dualmap.router.apis.prompt_text import ROLES, SYSTEM_ROLES, content_text, other_text
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.replayed_chunks import ReplayedChunks
from dualmap.router.apis.rest_by_ids import CHAT_REST
from dualmap.router.apis.rest_by_text import chat_by_text
from dualmap.router.apis.spelling import Spelled, call_text, field_text, in_order, spell
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.chat_prompt import read_chat as read_tokens


def read_chat(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(decoder, body)
    asked = None if fields is None else fields.messages
    if fields is None or not asked or len(asked) > MAX_MESSAGES:
        return NOT_UNDERSTOOD
    media = Media()
    messages: Spelled = []
    if fields.documents:
        spell(messages, "system", other_text(fields.documents, media))
    for message in asked:  # its fields are read all at once, which takes as long as reading two
        role, content, name, reasoning, reasoning_content, calls, call_id = astuple(message)
        if type(content) is not str:
            content = content_text(content, media, is_system=role in SYSTEM_ROLES)
        if calls or call_id or name or reasoning or reasoning_content:
            content += _beside(message, media)
        messages.append(ROLES.get(role, role))
        messages.append(content)
    most = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    return read_as_chat(fields, messages, media, most, scope)


def _beside(message: ChatMessage, media: Media) -> str:
    """What a message has beside its content, as far as templates print it."""
    texts = []
    reasoning = message.reasoning or message.reasoning_content
    if reasoning:
        texts.append(field_text("reasoning", reasoning if isinstance(reasoning, str) else in_order(reasoning)))
    if isinstance(message.tool_calls, list) and not media.takes(message.tool_calls):
        texts.append(field_text("calls", in_order(message.tool_calls)))
    elif isinstance(message.tool_calls, list):
        for call in message.tool_calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                texts.append(call_text(function.get("name"), function.get("arguments"), call.get("id")))
            else:
                texts.append(field_text("call", in_order(call)))
    for name, value in (("name", message.name), ("tool_call_id", message.tool_call_id)):
        if isinstance(value, str):
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
    one_token=always(
        b',"stream":false,"stream_options":null,"max_tokens":1,"max_completion_tokens":1,"min_tokens":0,'
        b'"return_token_ids":false'
    ),
    tokens=read_tokens,
    rest=CHAT_REST,
    replayed=ReplayedChunks,
    by_text=chat_by_text,
)
