"""A chat request's body -> the text that vLLM 0.32 makes of it (vllm/renderers/hf.py, `HfRenderer`).

What an instance is told by `--chat-template`, `--chat-template-content-format` or `--default-chat-template-kwargs` is
not known here: instances started with these render otherwise.
"""

import inspect
import re
from functools import cached_property
from importlib import import_module
from typing import Any

from dualmap.router.tokens.chat_messages import ContentFormat, UnsupportedPromptError, conversation, tool_schemas
from dualmap.router.tokens.chat_prompt import ChatRequest

NAMED_ARGUMENTS = ("tools", "documents", "add_generation_prompt", "continue_final_message")  # for every template
DEVELOPER = r"\"developer\"|'developer'"  # so vLLM tells a template that knows the role
NOT_GIVEN = (None, "auto")  # values that vLLM takes for absent
EFFORTS = ("low", "medium", "high", "xhigh", "max")  # of `/v1/messages`


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
        messages = conversation(request.messages, self._format(template), typed=request.typed)
        if any(message["role"] == "developer" for message in messages) and not re.search(DEVELOPER, template):
            raise UnsupportedPromptError("developer messages, which vLLM merges into the system's for this template")
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, **arguments
            )
        except Exception as error:  # whatever an expression in a template may raise
            raise TemplateRefusedError(str(error)) from error
        return text

    @cached_property
    def wants_system_first(self) -> bool:
        """Whether vLLM's `/v1/messages` merges what the system says later into what it says first: where a template
        refuses it there (vllm/entrypoints/anthropic/serving.py, `_detect_merge_inline_system`)."""
        no_tools: tuple[list[Any] | None, ...] = (None, [])
        return any(_refuses_late_system(self._tokenizer.get_chat_template(tools=tools)) for tools in no_tools)

    @cached_property
    def least_effort(self) -> str:
        """The reasoning effort by which vLLM's `/v1/messages` turns thinking off: "none" where the template knows it
        (vllm/entrypoints/anthropic/serving.py, `_probe_disabled_thinking_effort`)."""
        without = self._with_effort("none")
        return "low" if without is None or without in map(self._with_effort, EFFORTS) else "none"

    def _with_effort(self, effort: str) -> str | None:
        try:
            return self.render(ChatRequest([{"role": "user", "content": "Hi"}], reasoning_effort=effort))
        except (UnsupportedPromptError, TemplateRefusedError):
            return None

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


def _refuses_late_system(template: str) -> bool:
    """As vLLM tries it, in an environment without the functions that transformers gives templates."""
    from jinja2 import TemplateError  # comes with the extra `tokenizer`
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    messages = [{"role": role, "content": "t"} for role in ("system", "user", "system", "user")]
    try:
        environment.from_string(template).render(messages=messages, add_generation_prompt=False)
    except TemplateError:
        return True
    return False
