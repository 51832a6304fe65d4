"""Prompt -> chained 64-bit block hashes: equal prefixes give equal leading hashes, whoever computes them.

Each hash covers its block and, through its parent, all before it. Hashes are never those of Python's own `hash()`.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, cast

from xxhash import xxh3_64_intdigest

_MASK = (1 << 64) - 1


def root_hash(*scope: bytes) -> int:
    """The parent of a first block: what must be equal before any prefix can be shared (model, cache salt, tools)."""
    parent = 0
    for part in scope:
        parent = xxh3_64_intdigest(part, parent)
    return parent


def hash_text(
    text: bytes, block_bytes: int, parent: int = 0, *, whole: bool = False, before: bytes = b""
) -> tuple[int, ...]:
    """Hash the bytes of a prompt, or of a part of one that follows its parent.

    whole: its end is one of a block, too, however short: others share it, or it stays as the prompt grows. If not, a
    rest shorter than a block is left out, since the next turn would change it; a text without any block is hashed
    whole. before: stands before the text, and is shorter than a block: the two need not be copied into one.
    """
    end = len(text)
    start, stop = 0, block_bytes - len(before)
    if end <= stop:
        return (xxh3_64_intdigest(before + text, parent),) if before or end else ()
    digest = xxh3_64_intdigest
    hashes: list[object] = []  # they need not become machine integers
    chained: Any = parent
    if before:
        chained = digest(before + text[:stop], parent)
        hashes.append(chained)
        start, stop = stop, stop + block_bytes
    while stop <= end:
        chained = digest(text[start:stop], chained)
        hashes.append(chained)
        start, stop = stop, stop + block_bytes
    if whole and start < end:
        hashes.append(digest(text[start:], chained))
    return cast("tuple[int, ...]", tuple(hashes))


def token_root(lora_name: str, cache_salt: str) -> int:
    """The parent of a first block of token ids: equal ids share nothing across adapters ("": none) and cache salts."""
    return root_hash(b"tokens", lora_name.encode(), cache_salt.encode())


def hash_tokens(token_ids: Sequence[int], block_tokens: int, *, parent: int = 0) -> tuple[int, ...]:
    """Hash token ids; a rest shorter than a block is left out."""
    packed = array("I", token_ids).tobytes()
    width = array("I").itemsize
    full_bytes = len(token_ids) // block_tokens * block_tokens * width
    if not full_bytes:
        return ()
    return hash_text(packed[:full_bytes], block_tokens * width, parent)


def hash_trace_ids(hash_ids: Iterable[int], *, parent: int = 0) -> tuple[int, ...]:
    """Hash the block ids of a trace, one id a block."""
    hashes: list[int] = []
    for block_id in hash_ids:
        parent = xxh3_64_intdigest((block_id & _MASK).to_bytes(8, "little"), parent)
        hashes.append(parent)
    return tuple(hashes)
