"""Token ids of the simulated tokenizer: four bytes of text each, as one number."""

from array import array

from dualmap.instances.simulated.media import TOKEN_BYTES


def to_ids(packed: bytes) -> list[int]:
    """The last token is filled up with zeros."""
    return array("I", packed + bytes(-len(packed) % TOKEN_BYTES)).tolist()


def pack_ids(token_ids: list[int]) -> bytes:
    return array("I", token_ids).tobytes()


def to_text(token_ids: list[int]) -> str:
    return pack_ids(token_ids).rstrip(b"\0").decode(errors="replace")
