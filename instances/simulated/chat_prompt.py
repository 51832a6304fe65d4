"""A chat as the text that the model sees: the ChatML template, with tools as Qwen's has them.

All APIs that take chats make ChatMessages of what they are sent, as vLLM does, so that a chat has one prompt, and one
set of cached blocks, whichever API it comes by.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from dualmap.instances.simulated.media import Media, MediaTokens

TOOLS_HEAD = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n<tools>"
GENERATION_PROMPT = "<|im_start|>assistant\n"


class ToolCall(NamedTuple):
    """arguments: JSON."""

    name: str
    arguments: str


class ChatMessage(NamedTuple):
    """content: texts and media in their order; None: there is none (yet)."""

    role: str
    content: tuple[str | Media, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Tool(NamedTuple):
    name: str
    description: str | None
    parameters: dict[str, Any] | None


class Prompt(NamedTuple):
    """packed: four bytes a token. media_tokens: how many of them are not text, by kind."""

    packed: bytes
    media_tokens: Mapping[str, int] = MappingProxyType({})


def render_chat(
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
    media: MediaTokens,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> Prompt:
    """continue_final_message: the last message is left open, for the model to go on with it."""
    counted: Counter[str] = Counter()
    packed = b""
    texts: list[str] = []  # not packed yet
    if tools and messages[0].role != "system":
        messages = [ChatMessage("system", ()), *messages]
    for message in messages:
        texts.append(f"<|im_start|>{message.role}\n")
        for part in message.content or ():
            if isinstance(part, str):
                texts.append(part)
            else:
                tokens = getattr(media, part.kind)
                counted[part.kind] += tokens
                packed += "".join(texts).encode() + part.packed(tokens)
                texts.clear()
        if tools:
            texts.append(_tools_text(tools))
            tools = ()
        for name, arguments in message.tool_calls:
            texts.append(f'\n<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')
        texts.append("<|im_end|>\n")
    if continue_final_message:
        texts.pop()
    elif add_generation_prompt:
        texts.append(GENERATION_PROMPT)
    packed += "".join(texts).encode()
    return Prompt(packed, counted) if counted else Prompt(packed)


def _tools_text(tools: Sequence[Tool]) -> str:
    lines = [json.dumps({"type": "function", "function": tool._asdict()}, ensure_ascii=False) for tool in tools]
    return "\n\n" + "\n".join([TOOLS_HEAD, *lines, "</tools>"])
