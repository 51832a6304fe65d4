"""KV events in every shape that vLLM has sent them, and what is said of those that it would not send."""

import msgspec
import pytest

from dualmap.instances.kv_events.format import (
    END_OF_REPLAY,
    EngineCleared,
    EngineRemoved,
    EngineStored,
    KvEventError,
    read_batch,
    read_message,
)

DIGEST = bytes(range(32))
SHORT = int.from_bytes(DIGEST[-8:], "big")
STORED = EngineStored([1, 2], None, [5, 6, 7, 8], 2)
MAP = {  # 0.32, with everything in it
    "type": "BlockStored",
    "block_hashes": [1, 2],
    "parent_block_hash": 9,
    "token_ids": [5, 6, 7, 8],
    "block_size": 2,
    "lora_id": 3,
    "medium": "GPU",
    "lora_name": "sql",
    "extra_keys": [["sql", "salt"], None],
    "group_idx": 0,
    "kv_cache_spec_kind": "full_attention",
    "locality": "LOCAL",
    "session_id": "s",
}
EVENTS = {
    "0.9, without medium": (["BlockStored", [1, 2], None, [5, 6, 7, 8], 2, None], STORED),
    "0.11, with medium": (
        ["BlockStored", [1, 2], 9, [5, 6, 7, 8], 2, None, "GPU"],
        EngineStored([1, 2], 9, [5, 6, 7, 8], 2, None, "GPU"),
    ),
    "0.14, with the adapter's name": (
        ["BlockStored", [1], None, [5, 6], 2, 1, "GPU", "sql"],
        EngineStored([1], None, [5, 6], 2, 1, "GPU", "sql"),
    ),
    "arrays with all that came later": (
        ["BlockStored", [1], None, [5, 6], 2, None, "CPU", None, [["salt"]], 1, "sliding_window", 128, "?"],
        EngineStored([1], None, [5, 6], 2, None, "CPU", None, [["salt"]], 1),
    ),
    "a map": (MAP, EngineStored([1, 2], 9, [5, 6, 7, 8], 2, 3, "GPU", "sql", [["sql", "salt"], None], 0, "LOCAL")),
    "a map without what has a default": (
        {"type": "BlockStored", "block_hashes": [1, 2], "parent_block_hash": None, "token_ids": [5, 6, 7, 8]}
        | {"block_size": 2, "lora_id": None, "medium": None, "lora_name": None},
        STORED,
    ),
    "hashes as digests": (
        ["BlockStored", [DIGEST], DIGEST, [5], 1, None],
        EngineStored([SHORT], SHORT, [5], 1),
    ),
    "hashes below zero": (["BlockRemoved", [-3]], EngineRemoved([-3])),
    "images and embeddings": (
        MAP | {"extra_keys": [[["image", 5]], [b"\xff"]]},
        EngineStored([1, 2], 9, [5, 6, 7, 8], 2, 3, "GPU", "sql", [[["image", 5]], [b"\xff"]], 0, "LOCAL"),
    ),
    "no tokens, as a tier sends it": (
        MAP | {"token_ids": [], "block_size": 0, "parent_block_hash": None, "lora_id": None, "lora_name": None}
        | {"extra_keys": None, "block_hashes": [DIGEST]},
        EngineStored([SHORT], None, [], 0, None, "GPU", None, None, 0, "LOCAL"),
    ),
    "removed, 0.9": (["BlockRemoved", [1, 2]], EngineRemoved([1, 2])),
    "removed, 0.16": (["BlockRemoved", [1, 2], "GPU"], EngineRemoved([1, 2], "GPU")),
    "removed, an array with a group": (["BlockRemoved", [1], "GPU", 1], EngineRemoved([1], "GPU", 1)),
    "removed, a map": (
        {"type": "BlockRemoved", "block_hashes": [DIGEST], "medium": "CPU", "group_idx": 0, "ownership": "x"},
        EngineRemoved([SHORT], "CPU", 0),
    ),
    "removed, of a tier elsewhere": (
        {"type": "BlockRemoved", "block_hashes": [7], "medium": "STORAGE", "locality": "REMOTE"},
        EngineRemoved([7], "STORAGE", None, "REMOTE"),
    ),
    "cleared, an array": (["AllBlocksCleared"], EngineCleared()),
    "cleared, a map": ({"type": "AllBlocksCleared", "medium": "GPU"}, EngineCleared()),
    "a type unknown, an array": (["BlockMoved", 1], None),
    "a type unknown, a map": ({"type": "BlockMoved", "to": []}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_read_in_the_shape_of_each_version(name):
    sent, read = EVENTS[name]
    batch = msgspec.msgpack.encode([1.5, [sent, ["AllBlocksCleared"]], 0])
    assert read_batch(batch) == (() if read is None else (read,)) + (EngineCleared(),)


@pytest.mark.parametrize(
    ("medium", "locality", "tier"),
    [
        (None, None, ""),
        ("GPU", "LOCAL", ""),
        ("CPU", "LOCAL", "cpu"),
        ("cpu", None, "cpu"),
        ("STORAGE", None, "storage"),
        ("STORAGE", "REMOTE", "remote"),
        ("CXL", None, "cxl"),
    ],
)
def test_a_tier_is_named_by_its_medium_and_whether_it_is_elsewhere(medium, locality, tier):
    assert EngineStored([1], None, [], 0, medium=medium, locality=locality).tier == tier
    assert EngineRemoved([1], medium, locality=locality).tier == tier


@pytest.mark.parametrize(
    "batch",
    [[1.5, []], [1.5, [], None], [1.5, [], 3, "more"], {"ts": 1.5, "events": []}, {"events": [], "x": 1}],
)
def test_a_batch_is_an_array_or_a_map_of_any_length(batch):
    assert read_batch(msgspec.msgpack.encode(batch)) == ()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x93\x01", "not msgpack"),
        (b"\xa1\xb9", "not msgpack"),
        (b"\x91" * 10_000, "not msgpack"),
        (7, "without a list of events"),
        ([1.5], "without a list of events"),
        ([1.5, {"a": 1}], "without a list of events"),
        ({"ts": 1.5}, "without a list of events"),
        ([1.5, [7]], "neither a map with a type nor an array with a name: 7"),
        ([1.5, [[]]], "neither a map"),
        ([1.5, [[["BlockStored"]]]], "neither a map"),
        ([1.5, [{"typ": "BlockStored"}]], "neither a map"),
        ([1.5, [["BlockStored", [1]]]], "BlockStored: Object missing required field `parent_block_hash`"),
        ([1.5, [["BlockRemoved"]]], "BlockRemoved: Object missing required field `block_hashes`"),
        ([1.5, [["BlockRemoved", 5]]], r"BlockRemoved: Expected `array`, got `int` - at `\$.block_hashes`"),
        ([1.5, [["BlockRemoved", ["x"]]]], r"Expected `int`, got `str` - at `\$.block_hashes\[0\]`"),
        ([1.5, [MAP | {"token_ids": [1, 2, -3, 4]}]], r"Expected `int` >= 0 - at `\$.token_ids\[2\]`"),
        ([1.5, [MAP | {"token_ids": [1 << 32]}]], r"Expected `int` <= 4294967295 - at `\$.token_ids\[0\]`"),
        ([1.5, [MAP | {"block_size": -1}]], r"at `\$.block_size`"),
        ([1.5, [MAP | {"extra_keys": [5]}]], r"at `\$.extra_keys\[0\]`"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(payload, says):
    if not isinstance(payload, bytes):
        payload = msgspec.msgpack.encode(payload)
    with pytest.raises(KvEventError, match=says):
        read_batch(payload)


@pytest.mark.parametrize(
    ("frames", "read"),
    [
        ([b"kv", bytes(7) + b"\x05", b"p"], (5, b"p")),
        ([b"", bytes(8), b""], (0, b"")),
        ([b"", b"kv", bytes(6) + b"\x01\x00", b"p"], (256, b"p")),
        ([b"", bytes(7) + b"\x07", b"p"], (7, b"p")),
        ([b"", b"", (-1).to_bytes(8, "big", signed=True), b""], (END_OF_REPLAY, b"")),
    ],
)
def test_a_message_is_read_as_published_and_as_replayed(frames, read):
    assert read_message(frames) == read


@pytest.mark.parametrize(
    ("frames", "says"), [([b"kv", bytes(8)], "2 frames"), ([b"kv", bytes(4), b"p"], "number of 4 bytes")]
)
def test_a_message_of_other_frames_is_refused(frames, says):
    with pytest.raises(KvEventError, match=says):
        read_message(frames)
