"""/v1/responses: OpenAI's API for agents. Its server keeps what it has answered: a request that goes on from there has
to go to the instance that made it."""

from typing import Any

import msgspec

from dualmap.router.apis.api import Api, Placement, always
from dualmap.router.apis.body_fields import given, is_flag
from dualmap.router.apis.common_body import ChatBody
from dualmap.router.apis.json_body import MAX_MESSAGES, decode
from dualmap.router.apis.media import Media
from dualmap.router.apis.prompt_blocks import read_as_chat
from dualmap.router.apis.prompt_text import ROLES, SYSTEM_ROLES, content_text, part_text
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.replayed_responses import ReplayedResponse
from dualmap.router.apis.spelling import Spelled, call_text, field_text, spell
from dualmap.router.apis.state_ids import path_state_id
from dualmap.router.apis.stream_rules import RESPONSES_STREAM
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.responses_prompt import read_responses as read_tokens


class _Body(ChatBody, gc=False):
    instructions: Any = None
    input: str | list[dict[str, Any]] | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    store: Any = None
    background: Any = None


class _Tool(msgspec.Struct, gc=False):
    type: Any = None


_decoder = msgspec.json.Decoder(_Body, strict=False)
_tools_decoder = msgspec.json.Decoder(list[_Tool])


def read_response(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    fields = decode(_decoder, body)
    if fields is None:
        return NOT_UNDERSTOOD
    state, stored = _state_of(fields), fields.store is not False
    if fields.input is None or (isinstance(fields.input, list) and len(fields.input) > MAX_MESSAGES):
        return ReadBody(understood=False, model=fields.model or "", state=state, stored=stored)
    media = Media()
    messages: Spelled = []
    if isinstance(fields.instructions, str):
        spell(messages, "system", fields.instructions)
    if isinstance(fields.input, str):
        spell(messages, "user", fields.input)
    else:
        _add_items(fields.input, messages, media)
    most, whole = fields.max_output_tokens, scope.splits and (_takes_turns(fields) or not is_flag(fields.store))
    return read_as_chat(fields, messages, media, most, scope, state=state, stored=stored, whole=whole)


def _takes_turns(fields: _Body) -> bool:
    """Whether the server may ask its engine several times, as with tools of its own: what another one has computed can
    be fetched once. The same where nobody waits for the answer, which is kept where it is made."""
    tools = given(fields.tools)
    try:
        return bool(fields.background) or (
            bool(tools) and any(t.type != "function" for t in _tools_decoder.decode(tools))
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return True


def read_about(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader: of a request for something else than the response itself."""
    fields = decode(_decoder, body)
    if fields is None:
        return NOT_UNDERSTOOD
    return ReadBody(understood=False, model=fields.model or "", state=_state_of(fields))


def _add_items(items: list[dict[str, Any]], messages: Spelled, media: Media) -> None:
    """Calls and thoughts are the assistant's, in the message before them where that is his."""
    beside: list[str] = []
    for item in items:
        kind = item.get("type")
        role = item.get("role")
        if isinstance(role, str):
            _end_message(beside, messages)
            content = content_text(item.get("content"), media, is_system=role in SYSTEM_ROLES)
            spell(messages, ROLES.get(role, role), content)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            _end_message(beside, messages)
            output = content_text(item.get("output"), media)
            spell(messages, "tool", output + field_text("tool_call_id", str(item.get("call_id"))))
        elif kind == "function_call":
            beside.append(call_text(item.get("name"), item.get("arguments"), item.get("call_id")))
        elif kind == "reasoning":
            beside.append(field_text("reasoning", content_text(item.get("content") or item.get("summary"), media)))
        else:
            beside.append(field_text("item", part_text(item, media)))
    _end_message(beside, messages)


def _end_message(beside: list[str], messages: Spelled) -> None:
    """beside: calls and thoughts since the last message; taken."""
    if not beside:
        return
    if messages[-2:-1] != ["assistant"]:
        spell(messages, "assistant", "")
    messages[-1] += "".join(beside)
    beside.clear()


def _state_of(fields: _Body) -> str:
    conversation = fields.conversation
    named = conversation.get("id") if isinstance(conversation, dict) else conversation
    return fields.previous_response_id or (named if isinstance(named, str) else "")


def read_kept(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader."""
    return ReadBody(understood=False, state=path_state_id(http.path))


RESPONSES = Api(
    "responses",
    Placement.PREFIX,
    read=read_response,
    stream=RESPONSES_STREAM,
    operation="chat",
    takes_salt=True,
    one_token=always(b',"stream":false,"max_output_tokens":1,"store":false'),
    tokens=read_tokens,
    replayed=ReplayedResponse,
    makes_state=True,
    chooses_rank=True,
)
ABOUT_RESPONSES = Api("about responses", Placement.LOAD, read=read_about, takes_salt=True)
CONVERSATIONS = Api("conversations", Placement.LOAD, makes_state=True)
KEPT = Api("kept", Placement.STATE, read=read_kept)
