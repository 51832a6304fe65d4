"""What is left of a streamed chat, asked of another instance by the text of the answer so far, as the last message that
the model is to go on with. Not exact: the text may be cut into other tokens than those that the model gave."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dualmap.router.apis.chunk_stream import DONE
from dualmap.router.apis.stream_event import read_event
from dualmap.router.apis.whole_number import whole_number

_NEVER = (
    *("logprobs", "top_logprobs", "structured_outputs", "structural_tag", "guided_json", "guided_regex"),
    *("guided_choice", "guided_grammar", "stop", "echo", "use_beam_search", "functions"),
)
_MOST = ("max_completion_tokens", "max_tokens")
_TEXT_FORMAT = "text"


def chat_by_text(fields: Mapping[str, Any], events: Sequence[bytes]) -> tuple[dict[str, Any], int] | None:
    """The fields of the request for the rest, and how many tokens the client has, about; None where the rest would not
    be that of the same answer. fields: of the request. events: that the client has. Raises msgspec.MsgspecError,
    ValueError, KeyError, TypeError, AttributeError for what is no chat or no chunk of one."""
    response_format = fields.get("response_format")
    if response_format and response_format.get("type") != _TEXT_FORMAT:
        return None
    if (fields.get("n") or 1) != 1 or any(fields.get(name) for name in _NEVER) or fields.get("continue_final_message"):
        return None
    if fields.get("tool_choice") not in (None, "none", "auto"):
        return None
    text, tokens = "", 0
    for event in events:
        if event == DONE:
            return None
        for choice in msgspec.json.decode(read_event(event)[1])["choices"]:
            delta = choice["delta"]
            if choice["finish_reason"] is not None or delta.get("tool_calls"):
                return None
            if delta.get("reasoning") or delta.get("reasoning_content"):
                return None
            if content := delta.get("content"):
                text += content
                tokens += len(choice.get("token_ids") or (0,))
    if not text:
        return None
    asked = {name: value for name, value in fields.items() if name != "return_token_ids"}
    asked["messages"] = [*fields["messages"], {"role": "assistant", "content": text}]
    asked |= {"add_generation_prompt": False, "continue_final_message": True}
    for name in _MOST:
        if fields.get(name) is not None:
            asked[name] = whole_number(fields[name]) - tokens
            if asked[name] < 1:
                return None
    if fields.get("min_tokens"):
        asked["min_tokens"] = max(0, whole_number(fields["min_tokens"]) - tokens)
    return asked, tokens
