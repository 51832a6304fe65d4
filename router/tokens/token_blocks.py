"""The blocks of a prompt by the token ids that the engine will compute: what its KV events name too.

Optional: it costs a tokenizer's time on a thread of its own. Where a prompt's ids cannot be told exactly, or not in
time, there is no answer, and the caller has the blocks of its text (router/apis/prompt_blocks.py).
"""

from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from threading import Lock
from typing import NamedTuple

import msgspec

from dualmap.router.tokens.chat_messages import UnsupportedPromptError
from dualmap.router.tokens.chat_prompt import ChatRequest
from dualmap.router.tokens.chat_template import ChatTemplate, TemplateRefusedError
from dualmap.router.tokens.completion_prompt import only_prompt
from dualmap.router.tokens.load_tokenizer import load_tokenizer
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.text_tokens import TextTokens, TokenIds
from dualmap.scheduler.blocks import hash_tokens, token_root

MAX_QUEUED = 256  # prompts in hand; a gateway that is further behind routes better by texts at once
MAX_BODY_BYTES = 4 << 20  # about a second of a core if nothing of it is known
CACHE_CHARS = 32 << 20  # characters of text; with their ids 60-100 MB


class TokenizedPrompt(NamedTuple):
    """blocks: see scheduler.blocks; their parent is `token_root(lora_name, cache_salt)`. prompt_tokens: exact."""

    blocks: tuple[int, ...]
    prompt_tokens: int


class Fallback(Enum):
    """Why there was no answer."""

    BUSY = "busy"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"  # images, several prompts, a template of its own ...
    REFUSED = "refused"  # by the template
    FAILED = "failed"  # anything else


class TokenBlocks:
    """segmented: see text_tokens.py. exact, fallbacks: prompts by outcome. cached_chars, computed_chars: how
    much of their text had known tokens, and how much was tokenised."""

    def __init__(self, tokenizer_path: str, block_tokens: int, threads: int = 1) -> None:
        """tokenizer_path: directory or name, as the instances have it. Raises TokenizerError."""
        tokenizer = load_tokenizer(tokenizer_path)
        self._template = ChatTemplate(tokenizer)
        self._text_tokens = TextTokens(tokenizer, CACHE_CHARS)
        self._block_tokens = block_tokens
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="token-blocks")
        self._lock = Lock()
        self._queued = 0
        self.segmented = self._text_tokens.segmented
        self.exact = 0
        self.fallbacks = dict.fromkeys(Fallback, 0)
        self.cached_chars = 0
        self.computed_chars = 0

    @property
    def queued(self) -> int:
        """Prompts in hand."""
        return self._queued

    def submit(self, body: bytes, read: PromptReader, lora_name: str) -> "Future[TokenizedPrompt | None]":
        """read: the body as its API has it. lora_name: the adapter's, "" for the base model's.

        The result is None where there is no exact answer, at once where too much is waiting. Never raises, nor does the
        future, until `close`. In asyncio: `await wrap_future(...)`; a prompt that is cancelled while it waits costs
        nothing.
        """
        if len(body) > MAX_BODY_BYTES:
            return self._not_taken(Fallback.TOO_LARGE)
        with self._lock:
            taken = self._queued < MAX_QUEUED
            self._queued += taken
        if not taken:
            return self._not_taken(Fallback.BUSY)
        future = self._pool.submit(self._tokenize, body, read, lora_name)
        future.add_done_callback(self._release)
        return future

    def close(self) -> None:
        """Prompts that wait are cancelled; those at work end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _not_taken(self, why: Fallback) -> "Future[TokenizedPrompt | None]":
        with self._lock:
            self.fallbacks[why] += 1
        future: Future[TokenizedPrompt | None] = Future()
        future.set_result(None)
        return future

    def _release(self, _: object) -> None:
        with self._lock:
            self._queued -= 1

    def _tokenize(self, body: bytes, read: PromptReader, lora_name: str) -> TokenizedPrompt | None:
        try:
            tokens, cache_salt = self._tokens(body, read)
            parent = token_root(lora_name, cache_salt)
            blocks = hash_tokens(tokens.ids, self._block_tokens, parent=parent)
        except UnsupportedPromptError:
            why = Fallback.UNSUPPORTED
        except TemplateRefusedError:
            why = Fallback.REFUSED
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            why = Fallback.MALFORMED
        except Exception:  # of a field that vLLM would refuse, or of the tokenizer: no reason to fail the request
            why = Fallback.FAILED
        else:
            with self._lock:
                self.exact += 1
                self.computed_chars += tokens.computed_chars
                self.cached_chars += tokens.cached_chars
            return TokenizedPrompt(blocks, len(tokens.ids))
        with self._lock:
            self.fallbacks[why] += 1
        return None

    def _tokens(self, body: bytes, read: PromptReader) -> tuple[TokenIds, str]:
        """With the prompt's cache salt."""
        request = read(body, self._template)
        if isinstance(request, ChatRequest):
            text = self._template.render(request)
            return self._text_tokens.encode(text, request.add_special_tokens), request.cache_salt or ""
        prompt = only_prompt(request)
        if isinstance(prompt, str):
            tokens = self._text_tokens.encode(prompt, request.add_special_tokens)
        else:
            tokens = TokenIds(array("I", prompt), 0, 0)
        return tokens, request.cache_salt or ""


def load_token_blocks(tokenizer_path: str | None, block_tokens: int) -> TokenBlocks | None:
    """None where prompts are to be known by their texts. Raises TokenizerError."""
    return None if tokenizer_path is None else TokenBlocks(tokenizer_path, block_tokens)
