"""Bodies of generation requests -> what the simulated engine runs.

The simulated tokenizer makes a token of each four bytes of UTF-8, or takes token ids as they are. Answers are words
drawn from a hash of the prompt: equal prompts give equal answers, so that a chat which sends an answer back finds the
blocks that were computed while it was generated.
"""

import random
from array import array
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, bad_request, unknown_model
from dualmap.scheduler.blocks import hash_text, root_hash

TOKEN_BYTES = 4
DEFAULT_COMPLETION_TOKENS = 16  # vLLM's default for /v1/completions
STOP_LEAST_TOKENS, STOP_MOST_TOKENS = 16, 256  # where the simulated model ends its answers by itself
MAX_CHOICES = 64
WORDS = tuple(f"{a}{b}{c} ".encode() for a in "bdfgklmnprstvz" for b in "aeiou" for c in "lmnrstx")


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    priority: int | None = 0


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _ChatBody(_Body):
    messages: list[_Message] = []
    max_completion_tokens: int | None = None


class _CompletionBody(_Body):
    prompt: str | list[Any] | None = None


class _TokenizeBody(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None
    add_generation_prompt: bool = True


B = TypeVar("B", _ChatBody, _CompletionBody, _TokenizeBody)


class Choice(msgspec.Struct):
    """One prompt and its answer. blocks: of both. stops: the answer ends by itself rather than at max_tokens."""

    prompt_tokens: int
    answer: bytes
    blocks: tuple[int, ...]
    stops: bool

    @property
    def output_tokens(self) -> int:
        return len(self.answer) // TOKEN_BYTES

    @property
    def finish_reason(self) -> str:
        return "stop" if self.stops else "length"


class Generation(msgspec.Struct):
    """model: as asked for."""

    model: str
    choices: list[Choice]
    chat: bool
    stream: bool
    include_usage: bool
    priority: int


def read_chat(body: bytes, models: Sequence[str], block_size: int, max_model_len: int) -> Generation:
    """models: the base model's name, then those of its adapters. Raises RequestRefusedError as vLLM would answer."""
    fields = _decode(_ChatBody, body, models)
    if not fields.messages:
        raise RequestRefusedError(bad_request("`messages` must not be empty.", "messages"))
    packed = _apply_template(fields.messages, add_generation_prompt=True)
    given = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    root = _root(fields, models)
    choice = _choose(fields, packed, given, given or max_model_len, block_size, max_model_len, root)
    return _generation(fields, [choice], chat=True)


def read_completion(body: bytes, models: Sequence[str], block_size: int, max_model_len: int) -> Generation:
    """Raises RequestRefusedError as vLLM would answer."""
    fields = _decode(_CompletionBody, body, models)
    most = fields.max_tokens if fields.max_tokens is not None else DEFAULT_COMPLETION_TOKENS
    root = _root(fields, models)
    prompts = _prompts(fields.prompt)
    choices = [_choose(fields, packed, most, most, block_size, max_model_len, root) for packed in prompts]
    return _generation(fields, choices, chat=False)


def read_tokenize(body: bytes, models: Sequence[str]) -> list[int]:
    """Token ids of a text or of a chat. As a prompt they meet the same cached blocks as the text itself. Raises
    RequestRefusedError as vLLM would answer."""
    fields = _decode(_TokenizeBody, body, models)
    if fields.messages is not None:
        packed = _apply_template(fields.messages, add_generation_prompt=fields.add_generation_prompt)
    elif fields.prompt is not None:
        packed = fields.prompt.encode()
    else:
        raise RequestRefusedError(bad_request("The body must have `prompt` or `messages`."))
    return array("I", packed + bytes(-len(packed) % TOKEN_BYTES)).tolist()


def answer_bytes(packed_prompt: bytes, tokens: int) -> bytes:
    """The first tokens of the prompt's answer."""
    return b"".join(random.Random(xxh3_64_intdigest(packed_prompt)).choices(WORDS, k=tokens))


def _decode(kind: type[B], body: bytes, models: Sequence[str]) -> B:
    """With the model's name filled in."""
    try:
        fields = msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefusedError(bad_request(f"The body is not a valid request: {error}.")) from None
    fields.model = models[0] if fields.model is None else fields.model
    if fields.model not in models:
        raise RequestRefusedError(unknown_model(fields.model))
    return fields


def _apply_template(messages: list[_Message], *, add_generation_prompt: bool) -> bytes:
    """The bytes of a chat in the ChatML template."""
    prompt = "".join(f"<|im_start|>{m.role}\n{_text(m)}<|im_end|>\n" for m in messages)
    return f"{prompt}<|im_start|>assistant\n".encode() if add_generation_prompt else prompt.encode()


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content or ""


def _prompts(prompt: str | list[Any] | None) -> list[bytes]:
    """Each prompt as bytes, four a token."""
    if isinstance(prompt, str) or _is_ids(prompt):
        prompts: list[Any] = [prompt]
    else:
        prompts = prompt or []
    if not prompts or len(prompts) > MAX_CHOICES or not all(p and (isinstance(p, str) or _is_ids(p)) for p in prompts):
        what = f"a string, a list of token ids, or a list of up to {MAX_CHOICES} of these"
        raise RequestRefusedError(bad_request(f"`prompt` must be {what}, not empty.", "prompt"))
    return [p.encode() if isinstance(p, str) else array("I", p).tobytes() for p in prompts]


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(type(token) is int and 0 <= token < 1 << 32 for token in prompt)


def _root(fields: _Body, models: Sequence[str]) -> int:
    """Of the blocks: what an adapter computes is found by that adapter only."""
    return 0 if fields.model is None or fields.model == models[0] else root_hash(fields.model.encode(), b"", b"")


def _choose(
    fields: _Body, packed: bytes, given: int | None, most: int, block_size: int, max_model_len: int, root: int
) -> Choice:
    """given: max_tokens as the client set it; most: the same or the default. root: of its blocks."""
    prompt_tokens = -(-len(packed) // TOKEN_BYTES)
    if given is not None and given < 1:
        raise RequestRefusedError(bad_request(f"max_tokens must be at least 1, got {given}.", "max_tokens"))
    if prompt_tokens + (given or 1) > max_model_len:
        raise RequestRefusedError(_too_long(prompt_tokens, given or 1, max_model_len))
    most = min(most, max_model_len - prompt_tokens)
    stop = STOP_LEAST_TOKENS + xxh3_64_intdigest(packed) % (STOP_MOST_TOKENS - STOP_LEAST_TOKENS + 1)
    tokens = most if fields.ignore_eos else min(most, max(stop, fields.min_tokens))
    answer = answer_bytes(packed, tokens)
    blocks = hash_text(packed + answer, block_size * TOKEN_BYTES, parent=root)
    return Choice(prompt_tokens, answer, blocks, stops=tokens < most)


def _too_long(prompt_tokens: int, output_tokens: int, max_model_len: int) -> HttpError:
    """In vLLM's words: clients parse them to ask for less."""
    return bad_request(
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {output_tokens} output"
        f" tokens and your prompt contains at least {prompt_tokens} input tokens, for a total of at least"
        f" {prompt_tokens + output_tokens} tokens. Please reduce the length of the input prompt or the number of"
        f" requested output tokens. (parameter=input_tokens, value={prompt_tokens})",
        "input_tokens",
    )


def _generation(fields: _Body, choices: list[Choice], *, chat: bool) -> Generation:
    if fields.stream_options is not None and not fields.stream:
        raise RequestRefusedError(
            bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
        )
    include_usage = fields.stream_options is not None and fields.stream_options.include_usage
    return Generation(fields.model or "", choices, chat, bool(fields.stream), include_usage, fields.priority or 0)
