"""The body of a chat in OpenAI's API."""

from typing import Any

import msgspec

from dualmap.router.apis.common_body import ChatBody


class ChatMessage(msgspec.Struct, gc=False):
    role: str
    content: Any = None
    name: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None


class OpenAiChat(ChatBody, gc=False):
    messages: list[ChatMessage] | None = None
    documents: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


decoder = msgspec.json.Decoder(OpenAiChat, strict=False)
