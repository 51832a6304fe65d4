"""The tokenizer of simulated instances, in the form of one of `transformers`, for a gateway before them."""

from collections.abc import Sequence
from typing import Any

from dualmap.instances.simulated.chat_prompt import ChatMessage, Tool, render_chat
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.token_ids import to_ids

SIMULATED = "simulated"  # in the place of a directory or name


class SimulatedTokenizer:
    """A token for each four bytes. chat_template: says only that contents are taken in parts."""

    chat_template = "{% for message in messages %}{% for part in message.content %}{% endfor %}{% endfor %}"

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        """There are no special tokens."""
        return {"input_ids": to_ids(text.encode())}

    def get_chat_template(self, tools: Sequence[Any] | None = None) -> str:
        return self.chat_template

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        chat_template: str,
        tokenize: bool,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **ignored: Any,
    ) -> str:
        """The text of a chat. Raises ValueError for calls of tools: the arguments are told by the request in words that
        do not come so far."""
        if any(message.get("tool_calls") for message in messages):
            raise ValueError("calls of tools")
        functions = [tool["function"] for tool in tools or ()]
        prompt = render_chat(
            [ChatMessage(message["role"], _texts(message["content"])) for message in messages],
            [Tool(function["name"], function["description"], function["parameters"]) for function in functions],
            MediaTokens(),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        return prompt.packed.decode()


def _texts(content: str | Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return (content,) if isinstance(content, str) else tuple(part["text"] for part in content)
