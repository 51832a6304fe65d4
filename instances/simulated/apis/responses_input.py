"""The input of /v1/responses as a chat, by vLLM's rules (vllm/entrypoints/openai/responses/utils.py)."""

from collections.abc import Sequence
from typing import Any

from dualmap.instances.simulated.apis.openai_body import read_part
from dualmap.instances.simulated.chat_prompt import ChatMessage, Tool, ToolCall
from dualmap.instances.simulated.media import Media
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

INPUT_TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
ROLES = ("user", "assistant", "system", "developer")
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}  # item's type -> field of what is passed
CALL_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def read_input(given: str | list[dict[str, Any]]) -> list[ChatMessage]:
    """Items of one turn of the assistant make one message: a reasoning, a text, calls of tools. Raises
    RequestRefusedError."""
    if isinstance(given, str):
        return [ChatMessage("user", (given,))]
    messages: list[ChatMessage] = []
    for item in given:
        before = messages[-1] if messages and messages[-1].role == "assistant" else None
        message = _message(item, before)
        if before is not None and message.role == "assistant" and _goes_on(before, message):
            merged = ChatMessage("assistant", before.content or message.content, before.tool_calls + message.tool_calls)
            messages[-1] = merged
        else:
            messages.append(message)
    return messages


def read_tools(tools: Sequence[dict[str, Any]]) -> list[Tool]:
    """Those that are functions; the others are the server's own. Raises RequestRefusedError."""
    functions = [tool for tool in tools if tool.get("type") == "function"]
    if not all(isinstance(tool.get("name"), str) for tool in functions):
        raise RequestRefusedError(bad_request("Each function of `tools` must have a `name`.", "tools"))
    return [Tool(tool["name"], tool.get("description"), tool.get("parameters")) for tool in functions]


def _goes_on(before: ChatMessage, message: ChatMessage) -> bool:
    """Whether the item belongs to the message before: a call, or the text that was still missing."""
    return bool(message.tool_calls) or message.content is None or before.content is None


def _message(item: dict[str, Any], before: ChatMessage | None) -> ChatMessage:
    """Raises RequestRefusedError."""
    kind = item.get("type", "message")
    if kind in CALLS:
        return ChatMessage("assistant", None, (ToolCall(str(item.get("name")), str(item.get(CALLS[kind]) or "{}")),))
    if kind in CALL_OUTPUTS:
        return ChatMessage("tool", _parts(item.get("output")))
    if kind == "reasoning":
        return ChatMessage("assistant")
    role = item.get("role")
    if kind != "message" or role not in ROLES or "content" not in item:
        raise RequestRefusedError(bad_request(f"Unsupported input item type: {kind}, role: {role}.", "input"))
    return ChatMessage(role, _parts(item["content"]))


def _parts(content: Any) -> tuple[str | Media, ...]:
    if isinstance(content, str):
        return (content,) if content else ()
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RequestRefusedError(bad_request("`content` must be a string or a list of content parts.", "input"))
    return tuple(read_part(part, INPUT_TEXT_PARTS) for part in content)
