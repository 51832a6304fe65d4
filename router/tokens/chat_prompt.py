"""What of a chat's body decides its tokens, as vLLM 0.32 reads it; other APIs' bodies are made into the same."""

from typing import Any, ClassVar

import msgspec


class ChatRequest(msgspec.Struct, gc=False):
    """The fields that decide a chat's tokens. typed: vLLM reads the messages into models of its own, which put the keys
    they know first."""

    typed: ClassVar[bool] = True

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, str]] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    cache_salt: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncate_prompt_tokens: int | None = None
    kv_transfer_params: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(ChatRequest).decode


def read_chat(body: bytes, _: object) -> ChatRequest:
    """The prompt of a chat: a PromptReader. Raises msgspec.MsgspecError."""
    return _decode(body)
