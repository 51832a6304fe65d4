"""Where the engine's blocks lie in the gateway's blocks of the same prompt: both cut it, each at its own size."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dualmap.scheduler.blocks import hash_text, root_hash

_WIDTH = array("I").itemsize  # bytes of a token id, as scheduler.blocks.hash_tokens packs them


@dataclass(frozen=True, slots=True, eq=False)
class OwnBlock:
    """One of the gateway's blocks, and all before it in the prompt."""

    hash: int
    before: "OwnBlock | None"

    def prefix(self) -> list["OwnBlock"]:
        """From the prompt's first block to this one."""
        blocks = list(self._upwards())
        blocks.reverse()
        return blocks

    def _upwards(self) -> Iterator["OwnBlock"]:
        block: OwnBlock | None = self
        while block is not None:
            yield block
            block = block.before


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The end of an engine's block, or of a prompt's root.

    seed: the parent hash of the own block that is open there. last: the last own block complete there. ended: those
    that became so within the engine's block. tail: packed tokens of this engine's block that lie in the open own block.
    open_bytes: of all packed tokens in it, of which the first lie in engine blocks before.

    A place keeps those before it alive only as far back as its open block begins.
    """

    seed: int
    last: OwnBlock | None = None
    ended: tuple[OwnBlock, ...] = ()
    tail: bytes = b""
    open_bytes: int = 0
    before: "Place | None" = None

    def after(self, token_ids: Sequence[int], block_tokens: int, extra: Sequence[Any] = ()) -> "Place":
        """Where the engine's next block ends. extra: what distinguishes it beside its tokens, as an image does: its own
        blocks, and all that follow, are none that a text has."""
        seed = self.seed if not extra else root_hash(b"extra", msgspec.msgpack.encode((self.seed, extra)))
        tokens = array("I", token_ids).tobytes()
        block_bytes = block_tokens * _WIDTH
        open_bytes = self.open_bytes + len(tokens)
        if open_bytes < block_bytes:
            return Place(seed, self.last, (), tokens, open_bytes, self)
        text = self._open_tokens() + tokens
        full_bytes = open_bytes // block_bytes * block_bytes
        ended = []
        last = self.last
        for own_hash in hash_text(text[:full_bytes], block_bytes, parent=seed):
            last = OwnBlock(own_hash, last)
            ended.append(last)
        return Place(ended[-1].hash, last, tuple(ended), text[full_bytes:], open_bytes - full_bytes)

    def _open_tokens(self) -> bytes:
        pieces = []
        place: Place | None = self
        while place is not None:
            pieces.append(place.tail)
            place = place.before
        return b"".join(reversed(pieces))
