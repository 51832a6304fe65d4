"""The body of OpenAI's `/v1/responses` as the chat that vLLM 0.32 makes of it
(vllm/entrypoints/openai/responses/utils.py, `construct_input_messages` and `construct_tool_dicts`)."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from dualmap.router.tokens.chat_messages import UnsupportedPromptError
from dualmap.router.tokens.chat_prompt import ChatRequest

Item = dict[str, Any]
UNFINISHED = ("in_progress", "incomplete")


class _Responses(msgspec.Struct, gc=False):
    input: str | list[Item]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = "disabled"
    previous_response_id: str | None = None
    previous_input_messages: Any = None
    prompt: Any = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None


class _ResponsesChat(ChatRequest, gc=False):
    typed: ClassVar[bool] = False


_decode = msgspec.json.Decoder(_Responses).decode


def read_responses(body: bytes, _: object) -> ChatRequest:
    """A PromptReader. Raises UnsupportedPromptError where the prompt is not all in the body, msgspec.MsgspecError."""
    request = _decode(body)
    if request.previous_response_id is not None or request.previous_input_messages or request.prompt is not None:
        raise UnsupportedPromptError("a prompt that the instance has a part of")
    if request.truncation != "disabled":
        raise UnsupportedPromptError("a truncation")
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    items = request.input
    if isinstance(items, str):
        messages.append({"role": "user", "content": items})
        goes_on = False
    else:
        messages += _conversation(items)
        goes_on = bool(items) and _goes_on(items[-1])
    return _ResponsesChat(
        messages=messages,
        tools=list(_functions(request.tools)) if request.tools else None,
        reasoning_effort=(request.reasoning or {}).get("effort"),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
        add_special_tokens=True,
        cache_salt=request.cache_salt,
        chat_template_kwargs=request.chat_template_kwargs,
        kv_transfer_params=request.kv_transfer_params,
    )


def _goes_on(last: Item) -> bool:
    """Whether the answer continues the last item."""
    if last.get("status") not in UNFINISHED:
        return False
    if last.get("type") == "reasoning" or (last.get("type") == "message" and last.get("role") == "assistant"):
        return True
    raise UnsupportedPromptError("an unfinished item that is no answer")


def _conversation(items: Iterable[Item]) -> list[dict[str, Any]]:
    """An assistant's message is put together of items that follow each other: its reasoning, its text, its calls."""
    messages: list[dict[str, Any]] = []
    for item in items:
        last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
        match item.get("type", "message"):
            case "function_call":
                calls = None if last is None else last.get("tool_calls")
                if calls is not None:
                    calls.append(_call(item))
                else:
                    _add(messages, last, "tool_calls", [_call(item)])
            case "reasoning":
                _add(messages, last, "reasoning", _reasoning(item))
            case "function_call_output":
                output = _content(item.get("output"))
                messages.append({"role": "tool", "content": output, "tool_call_id": item.get("call_id")})
            case "message" if item.get("role") == "assistant":
                _add(messages, last, "content", _answer(item))
            case "message" if isinstance(item.get("role"), str):
                messages.append({"role": item["role"], "content": _content(item.get("content"))})
            case kind:
                raise UnsupportedPromptError(f"an item of type {kind}")
    return messages


def _add(messages: list[dict[str, Any]], last: dict[str, Any] | None, key: str, value: Any) -> None:
    """To the assistant's message that stands last, if it has none of that yet, else as a new one."""
    if last is not None and last.get(key) is None:
        last[key] = value
    else:
        messages.append({"role": "assistant", key: value})


def _call(item: Item) -> dict[str, Any]:
    name = f"{item['namespace']}__{item['name']}" if item.get("namespace") else item["name"]
    return {"id": item["call_id"], "function": {"name": name, "arguments": item["arguments"]}, "type": "function"}


def _reasoning(item: Item) -> str:
    if item.get("encrypted_content"):
        raise UnsupportedPromptError("encrypted reasoning")
    texts = item.get("content") or item.get("summary")
    return str(texts[0]["text"]) if texts else ""


def _answer(item: Item) -> str:
    """Of several texts the first one: vLLM reads no more."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    if item.get("type") != "message" or not content or content[0].get("type") != "output_text":
        raise UnsupportedPromptError("an answer that is not a text")
    return str(content[0]["text"])


def _content(content: Any) -> Any:
    """A text, or the texts of its parts without what else stands in them."""
    if not isinstance(content, list):
        return content
    if any(part.get("type") != "input_text" for part in content):
        raise UnsupportedPromptError("content that is not a text")
    return [{"type": "text", "text": part.get("text")} for part in content]


def _functions(tools: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that the template is shown; tools that the server has itself are not."""
    for tool in tools:
        match tool.get("type"):
            case "function":
                yield {"type": "function", "function": tool}
            case "namespace":
                for inner in tool["tools"]:
                    if inner.get("type") == "function":
                        yield {"type": "function", "function": inner | {"name": f"{tool['name']}__{inner['name']}"}}
            case "custom":
                raise UnsupportedPromptError("a tool that is given a text")
