"""What is left of a streamed chat or completion, asked of another instance by token ids: as `/v1/completions` whose
prompt is the prompt's ids and those of the answer so far. What follows depends on these alone, so that the answer is as
it would have been; what depends on more is not asked for."""

from collections.abc import Mapping
from typing import Any

import msgspec

from dualmap.router.apis.rest_chunks import RestChunks
from dualmap.router.apis.stop_strings import read_stops
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.apis.whole_number import whole_number

TARGET = b"/v1/completions"

# What the engine knows of an answer besides its tokens is lost with the instance. By field: why such an answer can not
# go on elsewhere.
_LOST: Mapping[str, str] = {
    "best_of": "it has several choices",
    "use_beam_search": "it is a beam search",
    "echo": "it repeats its prompt",
    "top_logprobs": "it has log probabilities",
    "prompt_logprobs": "it has log probabilities",
    "logprob_token_ids": "it has log probabilities",
    "structured_outputs": "its output is structured",
    "structural_tag": "its output is structured",
    "guided_json": "its output is structured",
    "guided_regex": "its output is structured",
    "guided_choice": "its output is structured",
    "guided_grammar": "its output is structured",
    "guided_decoding": "its output is structured",
    "functions": "it may call tools",
    "presence_penalty": "penalties count the tokens of its answer alone",
    "frequency_penalty": "penalties count the tokens of its answer alone",
    "bad_words": "it has `bad_words`",
    "repetition_detection": "it has `repetition_detection`",
    "thinking_token_budget": "it has a budget for reasoning",
    "watermarking": "it has a watermark",
    "vllm_xargs": "it has `vllm_xargs`",
    "kv_transfer_params": "its KV cache is transferred",
    "ec_transfer_params": "its encoder cache is transferred",
    "prompt_embeds": "its prompt is not of tokens",
    "truncate_prompt_tokens": "its prompt is cut",
    "suffix": "it has a suffix",
}
# Of a chat, or said anew: a completion has no such field, or takes it for something else.
_LEFT_OUT = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "include_reasoning",
        "logprobs",
        "max_completion_tokens",
        "messages",
        "mm_processor_kwargs",
        "n",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "return_prompt_text",
        "stop",
        "tool_choice",
        "tools",
    }
)


class RestByIds(msgspec.Struct, frozen=True, gc=False):
    """How the rest of one API's answers is asked for. text: what precedes a token's text in a chunk of its streams.
    most: fields that say how many tokens an answer has at the most, the first one counts; unnamed: how many it has
    where none of them says; None: as many as there is room for."""

    text: bytes
    most: tuple[str, ...]
    unnamed: int | None

    @property
    def target(self) -> bytes:
        """Of the request for the rest."""
        return TARGET

    def new_ids(self, hides: bool) -> TokenIds:
        """Of an answer that begins. hides: see TokenIds."""
        return TokenIds(self.text, hides)

    def know_prompt(self, fields: Mapping[str, Any], ids: TokenIds) -> None:
        """Where the request says the prompt's ids, which the answer need not tell."""

    def chunks(self, ids: TokenIds, wants_usage: bool, wants_usages: bool) -> RestChunks:
        """See RestChunks. Raises msgspec.MsgspecError."""
        return RestChunks(ids, wants_usage, wants_usages)

    def hindrance(self, fields: Mapping[str, Any], ids: TokenIds) -> str:
        """Why another instance cannot go on with the answer exactly; empty where one can. fields: of the request."""
        stops = read_stops(fields.get("stop"))
        if not ids.known:
            return "its instance does not tell token ids"
        if not (ids.hides or ids.all_seen or stops or self.parsed(fields, ids)):
            return "the client has ids of tokens whose text it has not"
        included = fields.get("include_stop_str_in_output") or False
        if stops and (fields.get("min_tokens") or not ids.hides or included not in (False, True)):
            return "it has stop strings"
        if (fields.get("n") or 1) != 1:
            return "it has several choices"
        if self._has_logprobs(fields):
            return "it has log probabilities"
        response_format = fields.get("response_format")
        if response_format and not (isinstance(response_format, dict) and response_format.get("type") == "text"):
            return "its output is structured"
        return lost_with_engine(fields)

    def parsed(self, fields: Mapping[str, Any], ids: TokenIds) -> str:
        """Why a server's parsers would read what is left of the answer; empty where they would not."""
        if ids.reasoning:
            return "it is in its reasoning"
        return "it may call tools" if fields.get("tools") and fields.get("tool_choice") != "none" else ""

    def tokens_left(self, fields: Mapping[str, Any], ids: TokenIds, context_tokens: int) -> int | None:
        """How many tokens the answer may still have; None where that is not known. context_tokens: the longest prompt
        and answer that instances take; 0: not known. Raises msgspec.MsgspecError where the request says no number."""
        whole_number(fields.get("min_tokens") or 0)
        most = next((fields[name] for name in self.most if fields.get(name) is not None), self.unnamed)
        room = context_tokens - ids.prompt_tokens if context_tokens else None
        if most is None or room is None:
            whole = room if most is None else whole_number(most)
        else:
            whole = min(whole_number(most), room)
        return None if whole is None else whole - ids.seen_tokens

    def body(self, fields: Mapping[str, Any], ids: TokenIds, tokens_left: int) -> bytes:
        """Of the request for the rest. See tokens_left."""
        asked = {name: value for name, value in fields.items() if name not in _LEFT_OUT and name != "prompt"}
        asked["max_tokens"] = tokens_left
        asked["stream"] = asked["return_token_ids"] = True
        asked["stream_options"] = {"include_usage": True}
        if read_stops(fields.get("stop")):
            asked["stream_interval"] = 1  # so that the token is known that completes one: the last that counts
        if least := fields.get("min_tokens"):
            asked["min_tokens"] = max(0, whole_number(least) - ids.seen_tokens)
        return b'{"prompt":[%b],%b' % (b",".join((ids.prompt, *ids.seen)), msgspec.json.encode(asked)[1:])

    def _has_logprobs(self, fields: Mapping[str, Any]) -> bool:
        """A completion with `logprobs: 0` has those of its tokens; a chat's is true or false."""
        logprobs = fields.get("logprobs")
        return logprobs is not None and logprobs is not False


def lost_with_engine(fields: Mapping[str, Any]) -> str:
    """What of an answer an engine knows besides its tokens; empty: nothing. fields: of its request, or sampling."""
    if fields.get("seed") is not None and fields.get("temperature") != 0:
        return "it is drawn with a seed"
    return why_lost(_LOST, fields)


def why_lost(lost: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    """Of the fields that are given, why the first is lost; empty where none is. lost: by field, why."""
    return next((why for name, why in lost.items() if fields.get(name)), "")


def without_prompt(body: bytes) -> bytes:
    """The fields of a request, but for what its prompt is made of; empty where they cannot be read."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in _PROMPT})


_PROMPT = ("messages", "prompt", "documents")


def read_fields(body: bytes) -> dict[str, Any] | None:
    """Those of a request; None where they cannot be read."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


CHAT_REST = RestByIds(b'"content":"', ("max_completion_tokens", "max_tokens"), None)
COMPLETION_REST = RestByIds(b'"text":"', ("max_tokens",), 16)
