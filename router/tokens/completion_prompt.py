"""What a completion request's body gives the engine, as vLLM 0.32 reads it: a text, or token ids as they are."""

from typing import Any

import msgspec

from dualmap.router.tokens.chat_messages import UnsupportedPromptError


class CompletionRequest(msgspec.Struct, gc=False):
    """The fields that decide a completion's tokens."""

    prompt: Any = None
    prompt_embeds: Any = None
    suffix: str | None = None
    add_special_tokens: bool = True
    cache_salt: str | None = None
    truncate_prompt_tokens: int | None = None


_decode = msgspec.json.Decoder(CompletionRequest).decode


def read_completion(body: bytes, _: object) -> CompletionRequest:
    """The prompt of a completion request: a PromptReader. Raises msgspec.MsgspecError."""
    return _decode(body)


def only_prompt(request: CompletionRequest) -> str | list[int]:
    """Raises UnsupportedPromptError."""
    if request.prompt_embeds is not None or request.suffix is not None or request.truncate_prompt_tokens is not None:
        raise UnsupportedPromptError("embeddings, a suffix or a truncation")
    prompt = request.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int and 0 <= token < 1 << 32 for token in prompt):
        return prompt
    raise UnsupportedPromptError("not one text, nor one list of token ids")
