"""vLLM's KV cache events as they come over ZMQ (vllm/distributed/kv_events.py, versions 0.9 to 0.32).

An event is a map with its `type` (0.32), or an array that begins with the type's name (0.16 and before); the batch
around the events is an array, in a few versions a map. Types and fields that are not read here may come and go.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

END_OF_REPLAY = (1 << 64) - 1  # the sequence number, -1 as vLLM writes it, of the message after the last replayed one
SEQUENCE_BYTES = 8
POOL = "gpu"  # the medium of the KV pool; versions before there were others say nothing

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class KvEventError(ValueError):
    """A message that is not as vLLM sends them; the text says what is wrong with it."""


class EngineStored(msgspec.Struct, frozen=True):
    """A run of blocks was stored, parent first. token_ids: of all of them together. extra_keys: what else went into
    each block's hash. Fields are in the order of vLLM's arrays, which grew at their end."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[TokenId]
    block_size: Annotated[int, msgspec.Meta(ge=0)]
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    locality: str | None = None

    @property
    def tier(self) -> str:
        """See tier_name."""
        return tier_name(self.medium, self.locality)


class EngineRemoved(msgspec.Struct, frozen=True):
    block_hashes: list[int]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None

    @property
    def tier(self) -> str:
        """See tier_name."""
        return tier_name(self.medium, self.locality)


class EngineCleared(msgspec.Struct, frozen=True):
    """The whole prefix cache was dropped."""


EngineEvent = EngineStored | EngineRemoved | EngineCleared
_TYPES: dict[str, type[EngineEvent]] = {
    "BlockStored": EngineStored,
    "BlockRemoved": EngineRemoved,
    "AllBlocksCleared": EngineCleared,
}


def tier_name(medium: str | None, locality: str | None) -> str:
    """Where a copy is, as scheduler/tiers.py calls it: empty for the KV pool, `remote` for what is not at the server's
    own host, else vLLM's medium in lower case (CPU, STORAGE; LMCache: cpu)."""
    if locality is not None and locality.upper() == "REMOTE":
        return "remote"
    name = (medium or POOL).lower()
    return "" if name == POOL else name


def read_message(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Sequence number and payload of a message as published, [topic, number, payload], or as replayed, with an empty
    frame before it and in older versions without the topic. Raises KvEventError."""
    if len(frames) < 3:
        raise KvEventError(f"a message of {len(frames)} frames, not 3 or more")
    number, payload = frames[-2:]
    if len(number) != SEQUENCE_BYTES:
        raise KvEventError(f"a sequence number of {len(number)} bytes, not {SEQUENCE_BYTES}")
    return int.from_bytes(number, "big"), payload


def read_batch(payload: bytes) -> tuple[EngineEvent, ...]:
    """The events of a batch; those of unknown type are left out. Raises KvEventError."""
    try:
        batch = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KvEventError(f"a payload that is not msgpack: {error}") from None
    match batch:
        case [_, [*events], *_] | {"events": [*events]}:
            return tuple(event for item in events if (event := _event(item)) is not None)
    raise KvEventError("a payload without a list of events")


def _event(item: Any) -> EngineEvent | None:
    match item:
        case {"type": str(name)}:
            fields = item
        case [str(name), *values]:
            fields = dict(zip(_TYPES[name].__struct_fields__, values, strict=False)) if name in _TYPES else {}
            fields.pop("locality", None)  # which arrays never had
        case _:
            raise KvEventError(f"an event that is neither a map with a type nor an array with a name: {item!r:.80}")
    if name not in _TYPES:
        return None
    for field in ("block_hashes", "parent_block_hash"):
        if field in fields:
            fields[field] = _as_number(fields[field])
    try:
        return msgspec.convert(fields, _TYPES[name])
    except msgspec.ValidationError as error:
        raise KvEventError(f"{name}: {error}") from None


def _as_number(hashes: Any) -> Any:
    """Digests as vLLM shortens them where it sends numbers; whatever else it is, is left for the check of types."""
    match hashes:
        case [*several]:
            return [_as_number(one) for one in several]
        case bytes(digest):
            return int.from_bytes(digest[-8:], "big")
    return hashes
