"""A chat request's body -> the text that vLLM 0.32 makes of it (vllm/renderers/hf.py, `HfRenderer`).

What an instance is told by `--chat-template`, `--chat-template-content-format` or `--default-chat-template-kwargs` is
not known here: instances started with these render otherwise.
"""

import inspect
import re
from importlib import import_module
from typing import Any

import msgspec

from dualmap.router.tokens.chat_messages import ContentFormat, UnsupportedPromptError, conversation, tool_schemas

NAMED_ARGUMENTS = ("tools", "documents", "add_generation_prompt", "continue_final_message")  # for every template
DEVELOPER = r"\"developer\"|'developer'"  # so vLLM tells a template that knows the role
NOT_GIVEN = (None, "auto")  # values that vLLM takes for absent


class ChatRequest(msgspec.Struct, gc=False):
    """The fields that decide a chat's tokens."""

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


class TemplateRefusedError(Exception):
    """The template does not take this chat; an instance will refuse it too."""


class ChatTemplate:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._formats: dict[str, ContentFormat] = {}
        self._reserved = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - NAMED_ARGUMENTS

    def render(self, request: ChatRequest) -> str:
        """Raises UnsupportedPromptError and TemplateRefusedError. Any thread may call."""
        if request.chat_template is not None or request.truncate_prompt_tokens is not None:
            raise UnsupportedPromptError("a chat template or a truncation of its own")
        if request.kv_transfer_params and "prompt_token_ids" in request.kv_transfer_params:
            raise UnsupportedPromptError("token ids beside the messages")
        arguments = _template_arguments(request)
        if not self._reserved.isdisjoint(arguments):
            raise UnsupportedPromptError("arguments that are not the template's")
        # A tokenizer may have several templates, one of them for tools.
        template: str = self._tokenizer.get_chat_template(tools=arguments.get("tools"))
        messages = conversation(request.messages, self._format(template))
        if any(message["role"] == "developer" for message in messages) and not re.search(DEVELOPER, template):
            raise UnsupportedPromptError("developer messages, which vLLM merges into the system's for this template")
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, **arguments
            )
        except Exception as error:  # whatever an expression in a template may raise
            raise TemplateRefusedError(str(error)) from error
        return text

    def _format(self, template: str) -> ContentFormat:
        known = self._formats.get(template)
        if known is None:
            known = self._formats[template] = _detect_format(template)
        return known


def _template_arguments(request: ChatRequest) -> dict[str, Any]:
    """Named fields of the request go before its `chat_template_kwargs`, `tools` alone goes after."""
    given = request.chat_template_kwargs or {}
    arguments: dict[str, Any] = {"tools": tool_schemas(request.tools)}
    arguments |= {key: value for key, value in given.items() if value not in NOT_GIVEN}
    named = {
        "add_generation_prompt": request.add_generation_prompt,
        "continue_final_message": request.continue_final_message,
        "documents": request.documents,
        "reasoning_effort": request.reasoning_effort,
    }
    if request.reasoning_effort is not None and "enable_thinking" not in given:
        named["enable_thinking"] = request.reasoning_effort != "none"
    return arguments | {key: value for key, value in named.items() if value not in NOT_GIVEN}


def _detect_format(template: str) -> ContentFormat:
    from dualmap.router.tokens.content_format import (
        content_format,  # needs jinja2, which comes with the extra `tokenizer`
    )

    # Compiled with the extensions that transformers gives templates.
    compiled = import_module("transformers.utils.chat_template_utils")._compile_jinja_template(template)
    return content_format(compiled.environment.parse(template))
