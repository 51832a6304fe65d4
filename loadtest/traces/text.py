"""Prompt text for the block ids of a trace: the same id gives the same bytes, everywhere and always.

A block is 512 words of three letters and a space, 2048 ASCII bytes: 4 bytes a token, the ratio of English text.
Lower-case letters and spaces need no JSON escaping, so requests which share blocks share the bytes of their bodies.
Where lengths have to be exact whatever the tokenizer, a block is 512 token ids instead.
"""

from array import array
from functools import lru_cache

from xxhash import xxh3_128_digest

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest

BYTES_PER_TOKEN = 4
FIRST_TOKEN_ID, TOKEN_IDS = 1000, 7000  # four digits each, in any vocabulary, and free of special tokens in most
_BYTES_PER_TOKEN_ID = 5  # with its comma
_TEXT_SEED = 0x6475616C  # another seed is another text for every trace
_CACHED_BLOCKS = 8192  # 16 MiB: the blocks that are shared come again soon
_WORDS = tuple(
    (a + b + c + " ").encode() for a in "bdfgklmnprstvwhz" for b in "aeio" for c in "lnrt"
)  # 256 words, one for each value of a byte


@lru_cache(maxsize=_CACHED_BLOCKS)
def block_bytes(hash_id: int) -> bytes:
    """The BLOCK_TOKENS * BYTES_PER_TOKEN bytes that a block id stands for."""
    identity = hash_id.to_bytes(8, "little")
    digests = (xxh3_128_digest(identity, _TEXT_SEED + part) for part in range(BLOCK_TOKENS // 16))
    return b"".join(map(_WORDS.__getitem__, b"".join(digests)))


def prompt_bytes(request: TraceRequest) -> bytes:
    """The whole prompt, input_length * BYTES_PER_TOKEN bytes; of a partial last block its first bytes."""
    return b"".join(map(block_bytes, request.hash_ids))[: request.input_length * BYTES_PER_TOKEN]


@lru_cache(maxsize=_CACHED_BLOCKS)
def block_token_ids(hash_id: int) -> bytes:
    """The BLOCK_TOKENS token ids that a block id stands for, each with a comma behind it."""
    identity = hash_id.to_bytes(8, "little")
    digests = (xxh3_128_digest(identity, _TEXT_SEED + part) for part in range(BLOCK_TOKENS // 8))
    drawn = array("H", b"".join(digests))
    return b"".join(b"%d," % (FIRST_TOKEN_ID + number % TOKEN_IDS) for number in drawn)


def prompt_token_ids(request: TraceRequest) -> bytes:
    """The whole prompt as a JSON array of input_length token ids."""
    return b"[%b]" % b"".join(map(block_token_ids, request.hash_ids))[: request.input_length * _BYTES_PER_TOKEN_ID - 1]


def prompt_text(request: TraceRequest) -> str:
    return prompt_bytes(request).decode("ascii")
