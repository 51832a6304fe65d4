"""An engine's blocks in the gateway's words: held against the hashes of the whole prompts."""

import gc
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest

from dualmap.instances.kv_events.format import EngineCleared, EngineRemoved, EngineStored
from dualmap.instances.kv_events.places import OwnBlock, Place
from dualmap.instances.kv_events.translation import KvTranslation
from dualmap.scheduler.blocks import token_root
from dualmap.scheduler.events import BlocksRemoved, BlocksStored
from tests.instances.kv_events.engine_says import CLEARED, ME, Reader, engine_hashes, own, prompt, removed, stored


@pytest.mark.parametrize("block_tokens", [64, 128, 512])
@pytest.mark.parametrize("size", [16, 32, 48, 128, 1024])
def test_own_blocks_are_those_of_the_whole_prompt_however_it_is_stored(size, block_tokens):
    ids = prompt(2100)
    for step in (1, 3, 1000):
        translation = KvTranslation(ME, block_tokens, True)
        told: list[Any] = []
        blocks = len(ids) // size
        for start in range(0, blocks, step):
            told += translation.apply([stored(ids, size, start, min(start + step, blocks))])
        whole = own(ids[: blocks * size], block_tokens)
        assert told[-1] == BlocksStored(ME, whole)
        lengths = [len(event.blocks) for event in told]
        assert lengths == sorted(set(lengths)), "nothing is told twice"
        assert all(event.blocks == whole[: len(event.blocks)] for event in told)


@pytest.mark.parametrize(("size", "block_tokens"), [(16, 64), (48, 64), (128, 64), (64, 64)])
def test_an_own_block_goes_with_the_engine_block_in_which_it_ends(size, block_tokens):
    ids = prompt(size * 12)
    translation = KvTranslation(ME, block_tokens, True)
    translation.apply([stored(ids, size)])
    whole = own(ids, block_tokens)
    for last in reversed(range(12)):
        ends = whole[last * size // block_tokens : (last + 1) * size // block_tokens]
        assert translation.apply([removed(ids, size, last)]) == ((BlocksRemoved(ME, ends),) if ends else ())
    assert len(translation) == 0
    assert translation.held() == (CLEARED,)


def test_removals_that_follow_each_other_in_a_batch_are_told_together():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    whole = own(ids, 16)
    events = [stored(ids, 16), removed(ids, 16, 3), removed(ids, 16, 2), stored(ids, 16, 2, 3), removed(ids, 16, 2)]
    assert translation.apply(events) == (
        BlocksStored(ME, whole),
        BlocksRemoved(ME, (whole[3], whole[2])),
        BlocksStored(ME, whole[:3]),
        BlocksRemoved(ME, (whole[2],)),
    )


def test_a_clear_forgets_everything():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    translation.apply([stored(ids, 16)])
    assert translation.apply([EngineCleared()]) == (CLEARED,)
    assert len(translation) == 0
    assert translation.apply([stored(ids, 16, 2)]) == ()
    assert translation.unknown_parents == 1
    assert translation.apply([stored(ids, 16)]) == (BlocksStored(ME, own(ids, 16)),)


SCOPES = {
    "nothing": ({}, token_root("", "")),
    "no extra keys": ({"extra_keys": [None, None, None]}, token_root("", "")),
    "empty extra keys": ({"extra_keys": [[], [], []]}, token_root("", "")),
    "a salt": ({"extra_keys": [["s"], None, None]}, token_root("", "s")),
    "fewer extra keys than blocks": ({"extra_keys": [["s"]]}, token_root("", "s")),
    "an adapter": ({"lora_name": "sql", "lora_id": 1}, token_root("sql", "")),
    "an adapter among the keys": (
        {"lora_name": "sql", "lora_id": 1, "extra_keys": [["sql"], ["sql"], ["sql"]]},
        token_root("sql", ""),
    ),
    "an adapter's number among the keys": (
        {"lora_name": "sql", "lora_id": 1, "extra_keys": [[1], [1], [1]]},
        token_root("sql", ""),
    ),
    "an adapter and a salt": (
        {"lora_name": "sql", "lora_id": 1, "extra_keys": [["sql", "s"], ["sql"], ["sql"]]},
        token_root("sql", "s"),
    ),
    "a salt called as the adapter": (
        {"lora_name": "sql", "lora_id": 1, "extra_keys": [["sql", "sql"], ["sql"], ["sql"]]},
        token_root("sql", "sql"),
    ),
}


@pytest.mark.parametrize("name", SCOPES)
def test_adapter_and_salt_are_the_root_of_a_prompt(name):
    fields, root = SCOPES[name]
    ids = prompt(64 * 3)
    translation = KvTranslation(ME, 48, True)
    assert translation.apply([stored(ids, 64, **fields)]) == (BlocksStored(ME, own(ids, 48, root)),)


IMAGE = ["image", 5]


@pytest.mark.parametrize(
    ("keys", "like_text"),
    [
        ([[IMAGE], None, None], 0),
        ([None, [IMAGE], None], 1),
        ([None, None, [IMAGE]], 2),
        ([None, ["digest"], None], 1),  # one string is a salt in a prompt's first block alone
        ([[b"\x01"], None, None], 0),
        ([[IMAGE, "s"], None, None], 0),
        ([["digest", "s"], None, None], 0),
    ],
)
def test_what_is_no_text_is_never_taken_for_one(keys, like_text):
    ids = prompt(64 * 3)
    translation = KvTranslation(ME, 48, True)
    (told,) = translation.apply([stored(ids, 64, extra_keys=keys)])
    text = own(ids, 48)
    shared = [ours == of_text for ours, of_text in zip(told.blocks, text, strict=True)]
    alike = 64 * like_text // 48  # own blocks before the engine block that has the key
    assert shared == [True] * alike + [False] * (4 - alike)
    assert not set(told.blocks[alike:]) & set(own(ids, 48, token_root("", "s")))
    other = KvTranslation(ME, 48, True)
    assert (
        other.apply([stored(ids, 64, 0, 1, extra_keys=keys[:1]), stored(ids, 64, 1, extra_keys=keys[1:])])[-1] == told
    )


def test_only_the_first_cache_group_is_followed():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    translation.apply([stored(ids, 16, group_idx=0), stored(ids, 16, group_idx=1)])
    assert translation.apply([removed(ids, 16, 3, group_idx=1)]) == ()
    assert translation.apply([removed(ids, 16, 3, group_idx=0)]) == (BlocksRemoved(ME, own(ids, 16)[3:]),)


def test_an_own_block_is_held_while_any_engine_block_that_ends_it_is():
    """The engine has another hash for the same tokens, for instance with another algorithm in another tier."""
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    first = translation.apply([stored(ids, 16)])
    assert translation.apply([stored(ids, 32, scope="other")]) == ()
    assert translation.apply([removed(ids, 16, 3, 2)]) == ()
    assert translation.apply([removed(ids, 32, 1, scope="other")]) == (BlocksRemoved(ME, first[0].blocks[2:]),)


def test_blocks_that_continue_unknown_ones_are_dropped_and_counted():
    ids = prompt(128)
    translation = KvTranslation(ME, 16, True)
    assert translation.apply([stored(ids, 16, 2, 4), stored(ids, 16, 4, 5)]) == ()
    assert translation.unknown_parents == 2
    assert len(translation) == 0
    assert translation.apply([removed(ids, 16, 3)]) == ()
    assert translation.apply([stored(ids, 16, 0, 4)]) == (BlocksStored(ME, own(ids, 16)[:4]),)
    assert translation.apply([stored(ids, 16, 4, 5)]) == (BlocksStored(ME, own(ids, 16)[:5]),)
    assert translation.unknown_parents == 2


def test_hashes_that_do_not_match_the_tokens_are_dropped():
    """As of a sliding window, whose blocks out of the window are left out."""
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    assert translation.apply([EngineStored([1, 2], None, ids, 16)]) == ()
    assert translation.unknown_parents == 1


def test_without_identity_only_clears_are_told_and_tokens_counted():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, False)
    events = [stored(ids, 16), removed(ids, 16, 3, 2), stored(ids, 16, 2, 3, group_idx=1), EngineCleared()]
    assert translation.apply(events) == (CLEARED,)
    assert (translation.stored_tokens, translation.removed_tokens) == (64, 32)
    assert translation.held() == (CLEARED,)
    assert len(translation) == 0


class ModelEngine:
    """A pool of blocks as vLLM's: prompts share what is cached, or not, when they come at the same time; the block that
    was not used for the longest time is evicted. Sizes are counted in engine blocks."""

    def __init__(self, pool_blocks: int, size: int) -> None:
        self.size = size
        self._pool_blocks = pool_blocks
        self._cached: OrderedDict[int, int] = OrderedDict()  # physical block -> hash, the least recent first
        self._serial = 0
        self.ends: dict[int, Sequence[int]] = {}  # hash -> all tokens up to its end

    def cached(self) -> set[int]:
        return set(self._cached.values())

    def run(self, ids: Sequence[int], share: bool) -> list[Any]:
        hashes = engine_hashes(ids, self.size)
        physical = {engine_hash: block for block, engine_hash in self._cached.items()}
        hits = 0
        while share and hits < len(hashes) and hashes[hits] in physical:
            hits += 1
        new = len(hashes) - hits
        for engine_hash in reversed(hashes[:hits]):
            self._cached.move_to_end(physical[engine_hash])
        events: list[Any] = []
        while len(self._cached) + new > self._pool_blocks:
            _, evicted = self._cached.popitem(last=False)
            events.append(EngineRemoved([evicted], "GPU", 0))
        for i in reversed(range(hits, len(hashes))):
            self._serial += 1
            self._cached[self._serial] = hashes[i]
            self.ends[hashes[i]] = ids[: (i + 1) * self.size]
        middle = random.Random(self._serial).randint(hits, len(hashes))
        for start, end in ((hits, middle), (middle, len(hashes))):
            if start < end:
                events.append(stored(ids, self.size, start, end, medium="GPU", group_idx=0))
        return events

    def own_blocks(self, block_tokens: int) -> set[int]:
        """Whose last token lies in a cached block."""
        held: set[int] = set()
        for engine_hash in self.cached():
            ids = self.ends[engine_hash]
            before = (len(ids) - self.size) // block_tokens
            held.update(own(ids, block_tokens)[before:])
        return held


@pytest.mark.parametrize(("size", "block_tokens"), [(16, 64), (32, 32), (48, 64), (64, 24)])
def test_a_reader_knows_what_a_busy_engine_holds_and_nothing_is_kept_of_what_it_dropped(size, block_tokens):
    rng = random.Random(size)
    engine = ModelEngine(40, size)
    translation = KvTranslation(ME, block_tokens, True)
    reader = Reader()
    prompts = [prompt(size * 12, seed) for seed in range(3)]
    for turn in range(600):
        if turn % 150 == 149:
            engine = ModelEngine(40, size)
            reader.told(translation.apply([EngineCleared()]))
        base = rng.choice(prompts)
        branch = prompt(size * 6, rng.randrange(12))
        ids = base[: size * rng.randrange(13)] + branch[: rng.randrange(size * 6)]
        for event in engine.run(ids, share=rng.random() < 0.8):
            reader.told(translation.apply([event]))
        assert reader.held == engine.own_blocks(block_tokens)
        assert len(translation) == len(engine.cached())
        if turn % 100 == 50:
            late = Reader([1])
            late.told(translation.held())
            assert late.held == reader.held
    assert translation.unknown_parents == 0
    gc.collect()
    places = sum(type(thing) is Place for thing in gc.get_objects())
    assert places <= len(translation) * (1 + block_tokens // size)
    for engine_hash in list(engine.cached()):
        reader.told(translation.apply([EngineRemoved([engine_hash], "GPU", 0)] * 40))
    assert reader.held == set()
    gc.collect()
    assert [thing for thing in gc.get_objects() if type(thing) in (Place, OwnBlock)] == []


def test_an_engine_that_evicts_a_beginning_first_leaves_a_hole():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    reader = Reader()
    blocks = own(ids, 16)
    reader.told(translation.apply([stored(ids, 16, 0, 3), removed(ids, 16, 1)]))
    assert reader.held == {blocks[0], blocks[2]}
    reader.told(translation.apply([stored(ids, 16, 3, 4)]))
    assert reader.held == {blocks[0], blocks[2], blocks[3]}
    late = Reader()
    late.told(translation.held())
    assert late.held == reader.held
    reader.told(translation.apply([stored(ids, 16, 1, 2)]))
    assert reader.held == set(blocks)
