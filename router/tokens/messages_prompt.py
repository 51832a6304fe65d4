"""The body of Anthropic's `/v1/messages`, and of its `count_tokens`, as the chat that vLLM 0.32 makes of it
(vllm/entrypoints/anthropic/serving.py, `to_chat_completion_request`)."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from dualmap.router.tokens.chat_messages import BILLING_HEADER, UnsupportedPromptError
from dualmap.router.tokens.chat_prompt import ChatRequest
from dualmap.router.tokens.chat_template import ChatTemplate

Content = str | list[dict[str, Any]]
SAY_NOTHING = ("redacted_thinking", "tool_reference")  # blocks that vLLM leaves out


class _Message(msgspec.Struct, gc=False):
    role: str
    content: Content


class _Messages(msgspec.Struct, gc=False):
    messages: list[_Message]
    system: Content | None = None
    tools: list[dict[str, Any]] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Messages).decode


def read_messages(body: bytes, template: ChatTemplate) -> ChatRequest:
    """A PromptReader. Raises UnsupportedPromptError, msgspec.MsgspecError."""
    request = _decode(body)
    said_later = [_system_text(message.content) for message in request.messages if message.role == "system"]
    merged = bool(said_later) and template.wants_system_first
    first = [request.system if isinstance(request.system, str) else _system_text(request.system or [])]
    system = "".join(first + said_later if merged else first)
    messages = [{"role": "system", "content": system}] if system else []
    for message in request.messages:
        if not (merged and message.role == "system"):
            messages += _messages(message)
    return ChatRequest(
        messages=messages,
        tools=None if request.tools is None else [_tool(tool) for tool in request.tools],
        reasoning_effort=_effort(request, template),
        cache_salt=request.cache_salt,
        chat_template_kwargs=request.chat_template_kwargs,
        kv_transfer_params=request.kv_transfer_params,
    )


def _effort(request: _Messages, template: ChatTemplate) -> str | None:
    if (request.thinking or {}).get("type") == "disabled":
        return template.least_effort
    return (request.output_config or {}).get("effort")


def _system_text(content: Content) -> str:
    """Without the line that changes with every request of Claude Code."""
    texts = [content] if isinstance(content, str) else _system_texts(content)
    return "".join(text for text in texts if not text.startswith(BILLING_HEADER))


def _system_texts(blocks: Iterable[dict[str, Any]]) -> Iterator[str]:
    for block in blocks:
        if block.get("type") in ("tool_addition", "tool_removal"):
            raise UnsupportedPromptError("tools that come and go")
        if block.get("type") == "text" and block.get("text"):
            yield block["text"]


def _messages(message: _Message) -> Iterator[dict[str, Any]]:
    """The message, after the results of tools that are among its blocks."""
    role, content = message.role, message.content
    if role == "system":
        content = _system_text(content)
        if not content:
            return
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    own: dict[str, Any] = {"role": role}
    texts: list[dict[str, str]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in content:
        match block.get("type"):
            case "text":
                if block.get("text"):
                    texts.append({"type": "text", "text": block["text"]})
            case "thinking":
                if block.get("thinking") is not None:
                    thoughts.append(block["thinking"])
            case "tool_use":
                calls.append(_call(block))
            case "tool_result" if role == "user":
                yield _result(block)
            case kind if kind not in SAY_NOTHING:
                raise UnsupportedPromptError(f"content of type {kind}")
    if thoughts:
        own["reasoning"] = "".join(thoughts)
    if calls:
        own["tool_calls"] = calls
    if texts:
        own["content"] = texts[0]["text"] if len(texts) == 1 else texts
    if role != "user" or texts:
        yield own


def _call(block: dict[str, Any]) -> dict[str, Any]:
    if not block.get("id"):
        raise UnsupportedPromptError("a call without an id, which vLLM makes of the time")
    function = {"name": block.get("name") or "", "arguments": block.get("input") or {}}
    return {"id": block["id"], "type": "function", "function": function}


def _result(block: dict[str, Any]) -> dict[str, Any]:
    content = block.get("content") or ""
    if not isinstance(content, str):
        parts = [part for part in content if isinstance(part, dict)]
        if any(part.get("type") in ("image", "tool_reference") for part in parts):
            raise UnsupportedPromptError("a result that is not a text")
        content = "\n".join(part.get("text", "") for part in parts if part.get("type") == "text")
    return {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": content}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise UnsupportedPromptError("a tool that is not a function")
    function = {key: tool.get(key) for key in ("name", "description", "strict", "defer_loading")}
    return {"type": "function", "function": function | {"parameters": {**schema, "type": schema.get("type", "object")}}}
