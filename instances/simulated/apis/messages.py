"""/v1/messages and /v1/messages/count_tokens, by vLLM's rules (vllm/entrypoints/anthropic/serving.py)."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from dualmap.instances.simulated.apis.call import Call, Job, Reply
from dualmap.instances.simulated.apis.messages_shape import MessagesShape
from dualmap.instances.simulated.chat_prompt import ChatMessage, Prompt, Tool, ToolCall, render_chat
from dualmap.instances.simulated.generation import Sampling, generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.media import TOKEN_BYTES, Media, read_media
from dualmap.instances.simulated.served import Served
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, bad_request

NO_PROMPT = "x-anthropic-billing-header"  # how a block begins that Claude Code sends with each request, in other words


class _Block(msgspec.Struct):
    type: Literal[
        "text", "image", "document", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking"
    ]
    text: str | None = None
    source: dict[str, Any] | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    content: str | list[dict[str, Any]] | None = None


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None


class CountBody(msgspec.Struct):
    model: str
    messages: list[_Message]
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: int
    stream: bool | None = False
    temperature: float | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


def create_message(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError as vLLM would answer: a malformed body is told of as OpenAI tells it."""
    body = read_body(MessagesBody, call.body)
    if not body.model:
        raise RequestRefusedError(bad_request("Model is required", "model"))
    if body.max_tokens < 1:
        raise RequestRefusedError(bad_request("max_tokens must be positive", "max_tokens"))
    try:
        model = served.models.check(body.model)
        generation = generation_of(
            [_prompt(body, served)],
            Sampling(given=body.max_tokens, temperature=body.temperature),
            model=model,
            root=served.models.root(model),
            profile=served.profile,
            stream=bool(body.stream),
            priority=call.priority or 0,
            kv_transfer_params=body.kv_transfer_params,
        )
    except RequestRefusedError as refusal:
        raise MessageRefusedError(refusal.error) from None
    return Job(generation, MessagesShape(generation))


def count_tokens(call: Call, served: Served) -> Reply:
    """Raises RequestRefusedError."""
    body = read_body(CountBody, call.body)
    try:
        served.models.check(body.model)
        tokens = -(-len(_prompt(body, served).packed) // TOKEN_BYTES)
    except RequestRefusedError as refusal:
        raise MessageRefusedError(refusal.error) from None
    return Reply(msgspec.json.encode({"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}))


class MessageRefusedError(RequestRefusedError):
    """The refusal is told as Anthropic tells errors."""


def anthropic_error(error: HttpError) -> bytes:
    """With vLLM's types of errors, which are not Anthropic's."""
    return msgspec.json.encode({"type": "error", "error": {"type": error.type, "message": error.message}})


def _prompt(body: CountBody, served: Served) -> Prompt:
    """Raises RequestRefusedError."""
    messages = [*_system(body.system)]
    for message in body.messages:
        messages += _system(message.content) if message.role == "system" else _chat_messages(message)
    if not messages:
        raise RequestRefusedError(bad_request("Cannot apply chat template to an empty conversation."))
    tools = [Tool(tool.name, tool.description, tool.input_schema) for tool in body.tools or ()]
    return render_chat(messages, tools, served.media)


def _system(content: str | list[_Block] | None) -> Iterator[ChatMessage]:
    texts = [content] if isinstance(content, str) else [block.text for block in content or () if block.type == "text"]
    text = "".join(text for text in texts if text and not text.startswith(NO_PROMPT))
    if text:
        yield ChatMessage("system", (text,))


def _chat_messages(message: _Message) -> Iterator[ChatMessage]:
    """The results of tools are messages of their own, before what else the user says."""
    if isinstance(message.content, str):
        yield ChatMessage(message.role, (message.content,) if message.content else ())
        return
    parts: list[str | Media] = []
    calls: list[ToolCall] = []
    thought = False
    for block in message.content:
        match block.type:
            case "text" if block.text:
                parts.append(block.text)
            case "image" | "document" if block.source and (media := read_media(block.type, {"source": block.source})):
                parts.append(media)
            case "tool_use":
                calls.append(ToolCall(block.name or "", json.dumps(block.input or {})))
            case "tool_result" if message.role == "user":
                yield from _tool_result(block.content)
            case "tool_result":
                parts.append(f"Tool result: {block.content or ''}")
            case "thinking":
                thought = True
    if message.role != "user" or parts or calls or thought:
        yield ChatMessage(message.role, tuple(parts), tuple(calls))


def _tool_result(content: str | list[dict[str, Any]] | None) -> Iterator[ChatMessage]:
    """Pictures follow as a message of the user."""
    blocks = [] if content is None or isinstance(content, str) else content
    text = (
        content if isinstance(content, str) else "\n".join(b.get("text", "") for b in blocks if b.get("type") == "text")
    )
    yield ChatMessage("tool", (text,) if text else ())
    pictures = tuple(media for block in blocks if (media := read_media(str(block.get("type")), block)))
    if pictures:
        yield ChatMessage("user", pictures)
