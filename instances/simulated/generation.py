"""What the simulated engine runs for one request of any API, and what the model will answer.

The simulated tokenizer makes a token of each four bytes of UTF-8, or takes token ids as they are. Which words an
answer is made of is told by `words.py`: equal prompts give equal answers, so that a chat which sends an answer back
finds the blocks that were computed while it was generated.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from dualmap.instances.simulated.chat_prompt import Prompt
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.media import TOKEN_BYTES
from dualmap.instances.simulated.token_ids import to_ids
from dualmap.instances.simulated.words import answer_bytes, answered_tokens, text_of
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, bad_request
from dualmap.scheduler.blocks import hash_text, root_hash

STOP_LEAST_TOKENS, STOP_MOST_TOKENS = 16, 256  # where the simulated model ends its answers by itself
MAX_CHOICES = 1024  # of one request: prompts of a list (vLLM's VLLM_MAX_COMPLETION_PROMPTS) times n
MAX_ANSWER_TOKENS = 1 << 24  # of one request: they are made before they are sent
MOST_SALT_CHARS, NOT_IN_SALTS = 128, frozenset("@/\\\0")  # vLLM's, of `cache_salt`
PRIORITY_BOUND = 1 << 63


class Sampling(msgspec.Struct, kw_only=True):
    """given: max_tokens as the client set it. default: what counts where it set none."""

    given: int | None
    default: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int = 1
    temperature: float | None = None

    def check(self) -> None:
        """Raises RequestRefusedError, in vLLM's words."""
        if self.given is not None and self.given < 1:
            message = f"max_tokens must be at least 1, got {self.given}."
            raise RequestRefusedError(bad_request(message, "max_tokens"))
        if self.given is not None and self.min_tokens > self.given:
            message = f"min_tokens must be less than or equal to max_tokens={self.given}, got {self.min_tokens}."
            raise RequestRefusedError(bad_request(message))
        if self.n < 1:
            raise RequestRefusedError(bad_request(f"n must be at least 1, got {self.n}."))
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            rule = "in [0, 2]" if math.isfinite(self.temperature) else "a finite number"
            message = f"temperature must be {rule}, got {self.temperature}."
            raise RequestRefusedError(bad_request(message, "temperature"))


class Choice(msgspec.Struct):
    """One prompt and one answer to it. prompt: packed. blocks: of both. stops: the answer ends by itself rather than at
    max_tokens."""

    prompt: bytes
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

    def text(self, tokens: int) -> str:
        """Of so many tokens from the start."""
        return text_of(self.answer[: tokens * TOKEN_BYTES]).decode()

    def ids(self, start: int, end: int) -> list[int]:
        """Of the tokens from start to end."""
        return to_ids(self.answer[start * TOKEN_BYTES : end * TOKEN_BYTES])


class Generation(msgspec.Struct, kw_only=True):
    """choices: n for each prompt, those of a prompt side by side. cached_tokens: of the prompts, once they have
    started. most_tokens: of one answer. cache_salt, kv_transfer_params: of the request. remote_cached_tokens: of a
    prompt that was read from another server, what was cached there. lent: what the answer says of blocks that are kept
    for such a server."""

    model: str
    choices: list[Choice]
    n: int = 1
    stream: bool = False
    priority: int = 0
    block_size: int
    media_tokens: dict[str, int]
    most_tokens: int = 0
    cached_tokens: int = 0
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None
    remote_cached_tokens: int | None = None
    lent: dict[str, Any] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many answers it has."""
        return sum(choice.prompt_tokens for choice in self.choices[:: self.n])

    @property
    def created_cache_tokens(self) -> int:
        """Of the prompts' full blocks, what was not cached."""
        full = sum(choice.prompt_tokens // self.block_size for choice in self.choices[:: self.n]) * self.block_size
        return max(0, full - self.cached_tokens)


def generation_of(
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    model: str,
    root: int,
    profile: EngineProfile,
    stream: bool = False,
    priority: int = 0,
    cache_salt: str | None = None,
    kv_transfer_params: dict[str, Any] | None = None,
) -> Generation:
    """root: parent of the first blocks: what an adapter computes is found by that adapter only, and with a salt by who
    names the same. Raises RequestRefusedError as vLLM would answer."""
    sampling.check()
    if cache_salt is not None:
        _check_salt(cache_salt)
        root = root_hash(root.to_bytes(8, "little"), cache_salt.encode())
    if not -PRIORITY_BOUND <= priority < PRIORITY_BOUND:
        raise RequestRefusedError(bad_request("`priority` must fit into 64 bits.", "priority"))
    count = len(prompts) * sampling.n
    if count > MAX_CHOICES:
        raise RequestRefusedError(bad_request(f"A request has at most {MAX_CHOICES} answers: prompts times `n`.", "n"))
    first_tokens = -(-len(prompts[0].packed) // TOKEN_BYTES)
    most = _most_tokens(sampling, first_tokens, profile.max_model_len)
    longest = most if sampling.ignore_eos else min(most, max(STOP_MOST_TOKENS, sampling.min_tokens))
    if count * longest > MAX_ANSWER_TOKENS:
        message = f"The answers to a request have at most {MAX_ANSWER_TOKENS} tokens together."
        raise RequestRefusedError(bad_request(message, "n"))
    choices = [_choose(prompt, sampling, k, profile, root) for prompt in prompts for k in range(sampling.n)]
    return Generation(
        model=model,
        choices=choices,
        n=sampling.n,
        stream=stream,
        priority=priority,
        block_size=profile.block_size,
        media_tokens=dict(prompts[0].media_tokens),
        most_tokens=most,
        cache_salt=cache_salt,
        kv_transfer_params=kv_transfer_params,
    )


def _check_salt(cache_salt: str) -> None:
    """Raises RequestRefusedError, in vLLM's words."""
    rule = ""
    if not cache_salt:
        rule = "be a non-empty string if provided."
    elif len(cache_salt) > MOST_SALT_CHARS or not NOT_IN_SALTS.isdisjoint(cache_salt):
        rule = f"be at most {MOST_SALT_CHARS} characters and must not contain '@', '/', '\\\\', or NUL."
    if rule:
        raise RequestRefusedError(bad_request(f"Parameter 'cache_salt' must {rule}", "cache_salt"))


def _most_tokens(sampling: Sampling, prompt_tokens: int, max_model_len: int) -> int:
    most = sampling.default if sampling.given is None else sampling.given
    return min(max_model_len if most is None else most, max_model_len - prompt_tokens)


def _choose(prompt: Prompt, sampling: Sampling, sibling: int, profile: EngineProfile, root: int) -> Choice:
    packed = prompt.packed
    prompt_tokens = -(-len(packed) // TOKEN_BYTES)
    least = sampling.given or 1
    if prompt_tokens + least > profile.max_model_len:
        raise RequestRefusedError(_too_long(prompt_tokens, least, profile.max_model_len))
    most = _most_tokens(sampling, prompt_tokens, profile.max_model_len)
    span = STOP_MOST_TOKENS - STOP_LEAST_TOKENS + 1
    before = answered_tokens(packed, sibling)
    asked = packed[: len(packed) - before * TOKEN_BYTES].rstrip(b"\0")  # with which token ids fill up the last
    stop = STOP_LEAST_TOKENS + xxh3_64_intdigest(asked, sibling) % span - before
    tokens = most if sampling.ignore_eos else min(most, max(1, stop, sampling.min_tokens))
    answer = answer_bytes(asked, before + tokens, sibling)[before * TOKEN_BYTES :]
    blocks = hash_text(packed + answer, profile.block_size * TOKEN_BYTES, parent=root)
    return Choice(packed, prompt_tokens, answer, blocks, stops=tokens < most)


def _too_long(prompt_tokens: int, output_tokens: int, max_model_len: int) -> HttpError:
    """In vLLM's words: clients parse them to ask for less."""
    return bad_request(
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {output_tokens} output"
        f" tokens and your prompt contains at least {prompt_tokens} input tokens, for a total of at least"
        f" {prompt_tokens + output_tokens} tokens. Please reduce the length of the input prompt or the number of"
        f" requested output tokens. (parameter=input_tokens, value={prompt_tokens})",
        "input_tokens",
    )
