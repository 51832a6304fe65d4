"""Messages and tools of a chat as vLLM 0.32 gives them to the template (vllm/renderers/chat_utils.py,
`parse_chat_messages`; vllm/entrypoints/openai/chat_completion/protocol.py).

Templates may print whole objects as JSON, so the order of keys counts too: vLLM's models put the known ones first.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

ContentFormat = Literal["string", "openai"]  # what a template takes for a message's content: a text, or a list of parts

TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
# Parts of other kinds, and what clients add to a text that vLLM has a type for and so leaves out.
TYPED_KEYS = frozenset(TEXT_KEYS) | {"type", "name", "closed", "prompt_cache_breakpoint"}
BILLING_HEADER = "x-anthropic-billing-header"  # changes with every request of Claude Code, so vLLM drops its line


class UnsupportedPromptError(Exception):
    """A prompt that only the instance can turn into tokens; the message names what is in the way."""


def conversation(
    messages: Iterable[dict[str, Any]], form: ContentFormat, *, typed: bool = True
) -> list[dict[str, Any]]:
    """typed: see ChatRequest. Raises UnsupportedPromptError."""
    return [_message(message, form, typed) for message in messages]


def tool_schemas(tools: Iterable[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Raises UnsupportedPromptError."""
    return None if tools is None else [_tool(tool) for tool in tools]


def _message(message: dict[str, Any], form: ContentFormat, typed: bool) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str):
        raise UnsupportedPromptError("a message without a role")
    parts = list(_texts(message.get("content"), role == "system"))
    content: Any = parts
    if form == "string" or role == "tool":
        content = "\n".join(part["text"] for part in parts)
    result: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        if message.get("tool_calls"):
            result["tool_calls"] = [_tool_call(call, typed) for call in message["tool_calls"]]
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            result["reasoning"] = result["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    result |= {key: message[key] for key in ("name", "task") if isinstance(message.get(key), str)}
    if role == "developer":
        result["tools"] = message.get("tools")
    return result


def _texts(content: Any, is_system: bool) -> Iterator[dict[str, Any]]:
    """Parts of type text."""
    if content is None:
        return
    for part in [content] if isinstance(content, str) else content:
        fields = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = fields.get("type")
        if kind not in TEXT_KEYS or fields.get("uuid") is not None:
            raise UnsupportedPromptError(f"content of type {kind}")
        text = fields.get(TEXT_KEYS[kind])
        if text is None and kind in ("text", "refusal"):
            continue
        if not isinstance(text, str):
            raise UnsupportedPromptError("content without a text")
        if is_system and kind == "text" and text.startswith(BILLING_HEADER):
            text = text.partition("\n")[2]
            if not text:
                continue
        yield {"type": "text", "text": text} | {key: fields[key] for key in fields if key not in TYPED_KEYS}


def _tool_call(call: dict[str, Any], typed: bool) -> dict[str, Any]:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        raise UnsupportedPromptError("a tool call that is not of a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            arguments = {}
    if typed:
        function, call = _in_order(function, "arguments", "name"), _in_order(call, "id", "function", "type")
    return call | {"function": function | {"arguments": arguments if isinstance(arguments, dict) else {}}}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise UnsupportedPromptError("a tool that is not a function")
    if tool.get("defer_loading") is not None or function.get("defer_loading") is not None:
        raise UnsupportedPromptError("a tool that is loaded later")
    schema = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        schema["strict"] = function["strict"]
    return {"type": "function", "function": schema}


def _in_order(fields: dict[str, Any], *first: str) -> dict[str, Any]:
    return {key: fields[key] for key in first if key in fields} | fields
