"""What the bodies of OpenAI's APIs have in common."""

from typing import Any

import msgspec

from dualmap.instances.simulated.apis.call import Call
from dualmap.instances.simulated.apis.openai_shape import StreamOptions
from dualmap.instances.simulated.chat_prompt import ChatMessage, Tool, ToolCall
from dualmap.instances.simulated.generation import Sampling
from dualmap.instances.simulated.media import Media, read_media
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

TEXT_PARTS = {"text": "text", "refusal": "refusal", "thinking": "thinking"}  # part's type -> field of its text
NULL_CONTENT_ROLES = ("assistant", "function")  # whose messages may have no content; others must leave it out


class GenerationBody(msgspec.Struct):
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int | None = 1
    temperature: float | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    priority: int | None = 0
    return_token_ids: bool | None = None
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None

    def sampling(self, given: int | None, default: int | None) -> Sampling:
        return Sampling(
            given=given,
            default=default,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            n=1 if self.n is None else self.n,
            temperature=self.temperature,
        )

    def check_stream_options(self) -> None:
        """Raises RequestRefusedError."""
        if self.stream_options not in (None, StreamOptions()) and not self.stream:
            message = "Stream options can only be defined when `stream=True`."
            raise RequestRefusedError(bad_request(message, "stream_options"))

    def priority_of(self, call: Call) -> int:
        """The header counts more than the body, as with vLLM."""
        return (self.priority or 0) if call.priority is None else call.priority


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function


class ToolBody(msgspec.Struct):
    function: _Function

    def tool(self) -> Tool:
        return Tool(self.function.name, self.function.description, self.function.parameters)


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | msgspec.UnsetType | None = msgspec.UNSET
    tool_calls: list[_ToolCall] | None = None

    def read(self) -> ChatMessage:
        """Raises RequestRefusedError."""
        if type(self.content) is str and not self.tool_calls:
            return ChatMessage(self.role, (self.content,))
        if self.content is None and self.role not in NULL_CONTENT_ROLES:
            raise RequestRefusedError(bad_request(f"A message of role `{self.role}` must not have null `content`."))
        calls = tuple(ToolCall(call.function.name, call.function.arguments) for call in self.tool_calls or ())
        if isinstance(self.content, list):
            return ChatMessage(self.role, tuple(read_part(part, TEXT_PARTS) for part in self.content), calls)
        return ChatMessage(self.role, (self.content,) if self.content else (), calls)


def read_part(part: dict[str, Any], text_parts: dict[str, str]) -> str | Media:
    """text_parts: fields of the text, by the types of parts that have one. Raises RequestRefusedError."""
    kind = part.get("type")
    if not isinstance(kind, str):
        raise RequestRefusedError(bad_request("A content part must have a `type`."))
    if kind in text_parts:
        text = part.get(text_parts[kind])
        if not isinstance(text, str):
            raise RequestRefusedError(bad_request(f"A content part of type `{kind}` must have a text."))
        return text
    media = read_media(kind, part)
    if media is None:
        raise RequestRefusedError(bad_request(f"Unsupported chat content part type: '{kind}'."))
    return media
